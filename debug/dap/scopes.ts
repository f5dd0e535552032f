/** What a frame shows: registers, the fault, its walk, and the kernel's own affairs. */
import { describeFault as describeArm64 } from '../../arch/arm64/describe.js';
import { describeFault as describeX86 } from '../../arch/x86/describe.js';
import { hex } from '../../emu/address.js';
import type { FaultEvent } from '../../emu/events.js';
import type { DebugSession } from '../api.js';
import { resultText, valueText } from '../stop.js';
import type { PathCall, RegisterView, WalkView } from '../views.js';
import type { FrameRef } from './frames.js';
import { physicalReference, reference } from './memory-reference.js';
import { addressNode, addressText, memoryAt, type VariableNode } from './variables.js';

export interface ScopeNode {
  readonly name: string;
  readonly hint?: 'arguments' | 'registers';
  /** Much to read, or seldom wanted. */
  readonly expensive: boolean;
  children(): readonly VariableNode[];
}

export function scopesOf(session: DebugSession, frame: FrameRef): ScopeNode[] {
  const found: ScopeNode[] = [];
  const add = (
    name: string,
    children: () => readonly VariableNode[],
    more: Partial<ScopeNode> = {},
  ): void => {
    found.push({ name, children, expensive: false, ...more });
  };
  if (frame.kind === 'call') {
    add('Arguments', () => argumentNodes(frame.call), { hint: 'arguments' });
    add('Decisions', () => decisionNodes(frame.call));
  }
  if (frame.kind === 'code' && frame.level > 0) {
    // What a caller had in its other registers is not known.
    const { pc, sp } = frame;
    add(
      'Registers',
      () => [addressNode(session, 'pc', pc), ...(sp === null ? [] : [addressNode(session, 'sp', sp)])],
      { hint: 'registers' },
    );
    return found;
  }
  const { cpu } = frame;
  const group = (wanted: RegisterView['group']) => () => registerNodes(session, wanted, cpu);
  add('Registers', group('general'), { hint: 'registers' });
  add('System registers', group('system'), { hint: 'registers' });
  const { fault } = session.path();
  if (fault !== null) {
    add('Fault', () => faultNodes(session, fault));
    add('Walk', () => walkNodes(session, session.walk(fault.address, fault.access)));
  }
  if (session.arenas().length > 0) add('Arenas', () => arenaNodes(session), { expensive: true });
  const pool = session.kfence();
  if (pool !== null && pool.start !== pool.end)
    add('KFENCE', () => kfenceNodes(session), { expensive: true });
  add('Streams', () => streamNodes(session), { expensive: true });
  add('Console', () => textNodes(session.consoleLines()), { expensive: true });
  add('Other registers', group('other'), { hint: 'registers', expensive: true });
  return found;
}

function argumentNodes({ args, result }: PathCall): VariableNode[] {
  const nodes: VariableNode[] = args.map(({ name, value }) => ({ name, value }));
  return result === null ? nodes : [...nodes, { name: '(returned)', value: result }];
}

function decisionNodes({ items }: PathCall): VariableNode[] {
  return items.map((item) =>
    item.kind === 'call'
      ? { name: `${item.fn}()`, value: item.result ?? (item.open ? 'has not returned' : 'returned') }
      : { name: item.test, value: resultText(valueText(item.value)) },
  );
}

function registerNodes(session: DebugSession, group: RegisterView['group'], cpu: number): VariableNode[] {
  return session
    .registers(cpu)
    .filter((register) => register.group === group)
    .map(({ name, value, symbol }) => ({
      name,
      value: symbol === null ? hex(value) : `${hex(value)} <${symbol}>`,
      type: 'u64',
      evaluateName: `$${name}`,
      ...memoryAt(session, value),
      set: (wanted) => {
        session.writeRegister(name, wanted, cpu);
      },
      now: () => addressText(session, session.register(name, cpu)),
    }));
}

function faultNodes(session: DebugSession, fault: FaultEvent): VariableNode[] {
  const { exception, address, access, pc, code, cpu } = fault;
  const described = (session.arch === 'arm64' ? describeArm64 : describeX86)(exception, code);
  return [
    { name: 'exception', value: exception },
    { ...addressNode(session, 'address', address), ...watchable(address, 8) },
    { name: 'access', value: access },
    addressNode(session, 'pc', pc),
    {
      name: session.arch === 'arm64' ? 'ESR_EL1' : 'error code',
      value: hex(code),
      children: () => described.map((text, i) => ({ name: String(i), value: text })),
    },
    { name: 'cpu', value: cpu },
    { name: 'handled', value: session.path().over ? 'yes: the path is over' : 'under way' },
  ];
}

/** A line for each level of a walk; further lines about the one before are indented. */
const LEVEL = /^(P[G4UM]D|PTE)(?:\[\d+\])?/;

function walkNodes(session: DebugSession, walk: WalkView): VariableNode[] {
  const { va, levels, ok, pa, rights, owner } = walk;
  const described = walk.lines.filter((text) => LEVEL.test(text));
  const nodes: VariableNode[] = [addressNode(session, 'address', va)];
  levels.forEach(({ level, entryPa, entry }, i) => {
    const text = described[i] ?? '';
    const name = LEVEL.exec(text)?.[0] ?? level.toUpperCase();
    const flags = /= [0-9a-f]{16}\s+(.*)$/.exec(text)?.[1] ?? '';
    // The folded level has no entry of its own.
    const own = level === 'p4d' ? 'pgd' : level;
    nodes.push({
      name,
      value: `${hex(entry)}${flags === '' ? '' : ` ${flags}`}`,
      type: `${own}_t`,
      memory: physicalReference(entryPa),
      watch: { kind: 'entry', va, level: own === 'pte' ? null : own },
      set: (value) => {
        session.writeEntry(va, own, value);
      },
      now: () => hex(session.walk(va, walk.access, walk.user).levels[i]?.entry ?? 0n),
    });
  });
  if (ok && pa !== null) {
    nodes.push({ name: 'physical', value: hex(BigInt(pa)), memory: physicalReference(pa) });
    nodes.push({ name: 'rights', value: rights });
  } else {
    nodes.push({ name: 'verdict', value: walk.verdict });
  }
  if (owner !== null) nodes.push({ name: 'page', value: owner });
  return nodes;
}

function arenaNodes(session: DebugSession): VariableNode[] {
  return session.arenas().map(({ name, kernel, user, pages, ranges }) => ({
    name,
    value: `${pages} pages at ${hex(kernel)}`,
    memory: reference(kernel),
    children: () => [
      addressNode(session, 'kernel', kernel),
      addressNode(session, 'user', user),
      { name: 'pages', value: pages },
      ...ranges.map(({ first, last, state }) => ({
        name: first === last ? `page ${first}` : `pages ${first}-${last}`,
        value: state,
        memory: reference(kernel + BigInt(first) * 4096n),
        watch: { kind: 'entry' as const, va: kernel + BigInt(first) * 4096n, level: null },
      })),
    ],
  }));
}

function kfenceNodes(session: DebugSession): VariableNode[] {
  const pool = session.kfence();
  if (pool === null) return [];
  const used = pool.objects.filter(({ state }) => state !== 'unused');
  return [
    { name: 'enabled', value: String(pool.enabled) },
    addressNode(session, 'start', pool.start),
    addressNode(session, 'end', pool.end),
    { name: 'unused', value: pool.objects.length - used.length },
    ...used.map((object) => ({
      name: `object ${object.slot}`,
      value: `${object.state}, ${object.size} bytes of ${object.cache ?? 'no cache'}${object.protected ? ', protected' : ''}`,
      memory: reference(object.address),
      ...watchable(object.address, object.size),
    })),
  ];
}

function watchable(address: bigint, length: number): Pick<VariableNode, 'watch'> {
  if (length < 1) return {};
  return { watch: { kind: 'watch', address, length: Math.min(length, 4096), access: 'write' } };
}

function streamNodes(session: DebugSession): VariableNode[] {
  return session.streams().map(({ program, stream, text }) => ({
    name: `${program} ${stream}`,
    value: text === '' ? 'empty' : JSON.stringify(text),
    ...(text === '' ? {} : { children: () => textNodes(text.replace(/\n$/, '').split('\n')) }),
  }));
}

function textNodes(lines: readonly string[]): VariableNode[] {
  return lines.map((value, i) => ({ name: String(i + 1), value }));
}
