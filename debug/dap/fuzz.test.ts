import { expect, test } from '@jest/globals';
import type { Engine } from '../../emu/cpu.js';
import type { Ram } from '../../emu/ram.js';
import { engine, ISAS } from '../testing.js';
import { fuzz, MessageSource } from './fuzz.js';
import { sample } from './testing.js';

/** The engine, with the rams of the machines that there are. */
function counted(rams: Set<Ram>): Engine {
  return {
    version: engine.version,
    createRam: (base, size) => {
      const ram = engine.createRam(base, size);
      rams.add(ram);
      return ram;
    },
    releaseRam: (ram) => {
      rams.delete(ram);
      engine.releaseRam(ram);
    },
    createCpu: (isa, ram, options) => engine.createCpu(isa, ram, options),
  };
}

test.each(ISAS)('%s: whatever comes is answered once, and as the protocol has it', async (isa) => {
  const source = new MessageSource(1, sample(isa, 'set-cmask-writes-to-unallocated-page'));
  const rams = new Set<Ram>();
  const report = await fuzz(source, { openEngine: async () => counted(rams) }, 500);
  expect(report.faults).toEqual([]);
  // It was not refused as a whole.
  expect(report.responses).toBeGreaterThan(300);
  expect(report.responses - report.refusals).toBeGreaterThan(150);
  // Every machine is let go: what was closed while it ran, where it gets to.
  for (let turn = 0; turn < 100 && rams.size > 0; turn++) await new Promise((done) => setImmediate(done));
  expect(rams.size).toBe(0);
});
