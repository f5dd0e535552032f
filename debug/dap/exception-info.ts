/** The exception of a stop: of the fault that is handled, or of what the kernel has printed. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import { hex } from '../../emu/address.js';
import type { FaultEvent } from '../../emu/events.js';
import type { DebugSession } from '../api.js';
import { RequestError } from './request-error.js';
import { addressText } from './variables.js';

type Info = DebugProtocol.ExceptionInfoResponse['body'];

export function exceptionInfo(session: DebugSession): Info {
  const { reason } = session.stop;
  const { fault } = session.path();
  const lines = session.consoleLines();
  const oops = lines.findLastIndex((line) => OOPS.test(line));
  if (reason.kind === 'console') {
    return { exceptionId: `${arch(session)}.console`, description: reason.line, breakMode: 'always' };
  }
  if (reason.kind === 'oops' || (fault === null && oops >= 0)) {
    // The line in front says what it is about: `BUG: unable to handle page fault for address: …`.
    const earlier = lines.findLastIndex((line, i) => i < oops && OOPS.test(line));
    const title = lines.findLastIndex((line, i) => i < oops && i > earlier && BEGINS.test(line));
    const first = Math.max(0, title < 0 ? oops : title);
    return {
      exceptionId: fault === null ? `${arch(session)}.oops` : faultId(session, fault),
      description: lines[first] ?? 'oops',
      breakMode: 'always',
      details: { message: lines[oops] ?? '', typeName: 'oops', stackTrace: lines.slice(first).join('\n') },
    };
  }
  if (fault === null) throw new RequestError('no exception has been taken here');
  const { exception, access, address, code, pc } = fault;
  const at = addressText(session, pc);
  return {
    exceptionId: faultId(session, fault),
    description: `${exception}: ${access} of ${addressText(session, address)}, code ${hex(code)}, at ${at}`,
    breakMode: 'always',
    details: {
      message: `${access} of ${addressText(session, address)}`,
      typeName: exception,
      evaluateName: hex(address),
      stackTrace: session
        .callStack()
        .map(({ name, pc: framePc }) => (framePc === null ? `${name}()` : name))
        .join('\n'),
    },
  };
}

/** The first line of an oops, and what may stand in front of it. */
const OOPS = /^(Oops|Internal error|Kernel panic)\b/;
const BEGINS = /^(BUG|Unable to handle|kernel BUG)/;

function arch({ arch: name }: DebugSession): string {
  return name === 'x86-64' ? 'x86' : 'arm64';
}

/** `x86.#PF.kernel-write-not-present`. */
function faultId(session: DebugSession, { exception, access, address, pc }: FaultEvent): string {
  const walk = session.events.findLast(
    (event) => event.type === 'walk' && (event.va === address || event.va === pc),
  );
  const { user, verdict } = walk?.type === 'walk' ? walk : { user: false, verdict: '' };
  const words = [user ? 'user' : 'supervisor', access, ...verdict.split(/[^A-Za-z0-9]+/)];
  const what = words.filter((word) => word !== '').join('-');
  return `${arch(session)}.${exception.replaceAll(' ', '-')}.${what}`;
}
