/** From the client's breakpoint requests to what the session is to stop at. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import { hex, u64 } from '../../emu/address.js';
import type { DebugSession } from '../api.js';
import { type BreakpointSpec, WATCH_MAX } from '../breakpoints.js';
import { LEVELS } from '../terminal/levels.js';
import type { Wish, Wishes } from './breakpoint-book.js';
import { EXCEPTION_FILTERS } from './capabilities.js';
import type { Client } from './client.js';
import { FixtureLines } from './fixture-lines.js';
import { fixtureSource } from './frames.js';
import { isMapped, parseReference, reference } from './memory-reference.js';
import { RequestError } from './request-error.js';
import type { Arguments } from './requests.js';
import type { VariableNode } from './variables.js';

/** Breakpoints in the file of the fixture that is debugged. */
export function sourceWishes(
  { breakpoints }: Arguments<'setBreakpoints'>,
  file: string,
  client: Client,
): Wishes {
  return (session) => {
    const lines = new FixtureLines(session);
    return breakpoints.map(({ line, condition, hitCondition }): Wish => {
      const meaning = lines.meaning(client.fromLine(line));
      return {
        condition,
        hitCondition,
        spec: () => {
          if (meaning === null) {
            throw new RequestError('nothing stops at this line: steps and instructions of the fixture do');
          }
          return meaning.kind === 'code'
            ? { kind: 'address', address: meaning.address }
            : { kind: 'fixture-step', number: meaning.number };
        },
        shown: () => ({
          source: fixtureSource(file, client),
          line: client.line(meaning?.line ?? line),
          ...(meaning?.kind === 'code' ? { instructionReference: reference(meaning.address) } : {}),
        }),
        refused: { line },
      };
    });
  };
}

export function functionWishes({ breakpoints }: Arguments<'setFunctionBreakpoints'>): Wishes {
  return (session) =>
    breakpoints.map(({ name, condition, hitCondition }) => ({
      condition,
      hitCondition,
      spec: () => session.breakpointAt(name),
      shown: (spec) => shownAddress(spec),
    }));
}

function shownAddress(spec: BreakpointSpec): Partial<DebugProtocol.Breakpoint> {
  return spec.kind === 'address' ? { instructionReference: reference(spec.address) } : {};
}

export function instructionWishes({ breakpoints }: Arguments<'setInstructionBreakpoints'>): Wishes {
  return (session) =>
    breakpoints.map(({ instructionReference, offset, condition, hitCondition }) => ({
      condition,
      hitCondition,
      spec: () => {
        const { address, physical } = parseReference(instructionReference, offset);
        if (physical) throw new RequestError('code is stopped at by virtual addresses');
        return { kind: 'address', address };
      },
      shown: (spec) => ({
        ...shownAddress(spec),
        ...(spec.kind === 'address' && !isMapped(session, spec.address)
          ? { message: `${hex(spec.address)} is not mapped now` }
          : {}),
      }),
    }));
}

export function exceptionWishes({ filters, filterOptions }: Arguments<'setExceptionBreakpoints'>): Wishes {
  const wanted = [...filters.map((filterId) => ({ filterId, condition: undefined })), ...filterOptions];
  return () =>
    wanted.map(({ filterId, condition }) => {
      const filter = EXCEPTION_FILTERS.find((each) => each.filter === filterId);
      return {
        condition: filter?.hasExpression === true ? condition : undefined,
        spec: () => {
          if (filter === undefined) {
            const known = EXCEPTION_FILTERS.map((each) => each.filter).join(', ');
            throw new RequestError(`there is no filter \`${filterId.slice(0, 40)}\`: ${known} are there`);
          }
          const spec = filter.spec(condition);
          if (spec === null) throw new RequestError(`${filterId} needs a condition: the text of the line`);
          return spec;
        },
      };
    });
}

const ACCESS = { read: 'read', write: 'write', readWrite: 'access' } as const;

export function dataWishes({ breakpoints }: Arguments<'setDataBreakpoints'>): Wishes {
  return () =>
    breakpoints.map(({ dataId, accessType, condition, hitCondition }) => ({
      condition,
      hitCondition,
      spec: () => dataSpec(dataId, ACCESS[accessType]),
    }));
}

type DataSpec = Extract<BreakpointSpec, { kind: 'watch' | 'entry' }>;

/** What is watched, in a word that the client keeps, perhaps from one session to the next. */
function dataId(spec: DataSpec): string {
  return spec.kind === 'watch'
    ? `${hex(spec.address)}/${spec.length}`
    : `${spec.level ?? 'page'}/${hex(spec.va)}`;
}

function dataSpec(id: string, access: 'read' | 'write' | 'access'): DataSpec {
  const bytes = /^(0x[0-9a-f]{1,16})\/([0-9]{1,4})$/i.exec(id);
  if (bytes !== null) {
    return { kind: 'watch', address: BigInt(bytes[1] ?? 0), length: Number(bytes[2]), access };
  }
  const entry = /^(page|pgd|pud|pmd|pte)\/(0x[0-9a-f]{1,16})$/i.exec(id);
  if (entry === null)
    throw new RequestError(`\`${id.slice(0, 60)}\` is not what dataBreakpointInfo has told`);
  const level = LEVELS.find((each) => each === entry[1]) ?? null;
  return { kind: 'entry', va: BigInt(entry[2] ?? 0), level };
}

type DataInfo = DebugProtocol.DataBreakpointInfoResponse['body'];

function info(session: DebugSession, spec: DataSpec): DataInfo {
  const at = spec.kind === 'watch' ? spec.address : spec.va;
  const name = session.nameOf(at);
  const where = name === null ? hex(at) : `${hex(at)} <${name}>`;
  const what =
    spec.kind === 'entry'
      ? `${(spec.level ?? 'page-table entry').toString().toUpperCase()} of ${where}`
      : `${spec.length === 1 ? '1 byte' : `${spec.length} bytes`} at ${where}`;
  return {
    dataId: dataId(spec),
    description: what,
    accessTypes: spec.kind === 'entry' ? ['write'] : ['read', 'write', 'readWrite'],
    canPersist: true,
  };
}

/** `pte EXPRESSION`, `pmd EXPRESSION`: the entry of an address. */
const ENTRY = /^(page|pgd|pud|pmd|pte)\s+(.+)$/is;

/**
 * What can be watched under a name: a variable that is shown, an expression, or an address.
 * @param node the variable, if the client has named one
 */
export function dataInfo(
  session: DebugSession,
  { name, bytes, asAddress }: Arguments<'dataBreakpointInfo'>,
  node: VariableNode | null,
): DataInfo {
  if (node !== null) {
    if (node.watch !== undefined) return info(session, node.watch);
    return { dataId: null, description: `${node.name} cannot be watched: it is not in memory` };
  }
  const length = bytes ?? 8;
  if (length < 1 || length > WATCH_MAX) {
    return { dataId: null, description: `${length} bytes cannot be watched: 1 to ${WATCH_MAX} can` };
  }
  const entry = asAddress === true ? null : ENTRY.exec(name.trim());
  if (entry !== null) {
    const va = session.evaluate(entry[2] ?? '');
    const level = LEVELS.find((each) => each === entry[1]?.toLowerCase()) ?? null;
    return info(session, { kind: 'entry', va, level });
  }
  // An address in decimal is how the protocol has it, too.
  const address = u64(session.evaluate(name));
  return info(session, { kind: 'watch', address, length, access: 'write' });
}
