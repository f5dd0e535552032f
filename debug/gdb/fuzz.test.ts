import { expect, test } from '@jest/globals';
import { ISAS, SCRATCH_STEPS, sessionOf } from '../testing.js';
import { fuzz, isAnswer, PacketSource } from './fuzz.js';
import { Stub } from './stub.js';

/** `npm run fuzz-gdb` sends more of them. */
const PACKETS = 800;

test.each(ISAS)('%s: whatever comes is answered as the protocol has it', async (isa) => {
  const session = await sessionOf(isa, SCRATCH_STEPS);
  const stub = new Stub(session, 'fuzz.yaml');
  await stub.control.toFirstInstruction();
  const addresses = ['prog_main', 'write_word', 'a.page(3)', 'counter', '$sp'].map((each) =>
    session.evaluate(each),
  );
  const report = await fuzz(stub, new PacketSource(1, addresses), PACKETS);
  session.close();
  expect(report.faults).toEqual([]);
  // It was not refused as a whole.
  expect(report.answers).toBeGreaterThan(0.75 * PACKETS);
  expect(report.answers - report.empty - report.errors).toBeGreaterThan(0.25 * PACKETS);
});

test('an answer of another packet is none', () => {
  expect(isAnswer('m0,4', '00112233')).toBe(true);
  expect(isAnswer('m0,4', 'OK')).toBe(false);
  expect(isAnswer('vCont;c', 'T05thread:1;')).toBe(true);
  expect(isAnswer('vCont;c', 'W00')).toBe(true);
  expect(isAnswer('vCont;c', 'OK')).toBe(false);
  expect(isAnswer('Z0,0,1', 'E01')).toBe(true);
  expect(isAnswer('Z0,0,1', 'E')).toBe(false);
  expect(isAnswer('nobody knows', 'OK')).toBe(false);
});
