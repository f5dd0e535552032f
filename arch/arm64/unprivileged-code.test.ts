import { expect, test } from '@jest/globals';
import { Ram } from '../../emu/ram.js';
import { UnprivilegedCode } from './unprivileged-code.js';

const BASE = 0x4000_0000;
const NOP = 0xd503_201f;
const ERET = 0xd69f_03e0;
const LDTR = 0xf840_0820;

test.each([ERET, LDTR])(
  'word %#x is seen when its page is first fetched, or when the host has changed it',
  (word) => {
    const ram = new Ram(BASE, 1 << 20);
    const code = new UnprivilegedCode(ram);
    ram.words32.fill(NOP);
    code.note(BASE + 0x1000);
    ram.words32[0x2000 / 4 + 5] = word;
    code.searchAgain();
    expect(code.possible).toBe(false);
    code.note(BASE + 0x2000);
    expect(code.possible).toBe(true);

    ram.words32[0x2000 / 4 + 5] = NOP;
    code.changed();
    code.searchAgain();
    expect(code.possible).toBe(false);
    ram.words32[0x1000 / 4] = word;
    // Nobody said that there was a change: nothing is searched.
    code.searchAgain();
    expect(code.possible).toBe(false);
    code.changed();
    code.searchAgain();
    expect(code.possible).toBe(true);
  },
);
