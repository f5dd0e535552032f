/** Variables as trees that are made when somebody looks at them. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import { hex } from '../../emu/address.js';
import type { DebugSession } from '../api.js';
import type { BreakpointSpec } from '../breakpoints.js';
import { Handles } from './handles.js';
import { isMapped, reference } from './memory-reference.js';
import { RequestError } from './request-error.js';
import type { Arguments } from './requests.js';

export interface VariableNode {
  readonly name: string;
  /** What is shown; a number is shown as the client wants numbers. */
  readonly value: string | number;
  readonly type?: string;
  /** Where it is in memory, or what it points to. */
  readonly memory?: string;
  /** What an expression must say to get it. */
  readonly evaluateName?: string;
  children?(): readonly VariableNode[];
  /** Changes it; there is nothing to change without. */
  set?(value: bigint): void;
  /** Tells its value behind a change. */
  now?(): string;
  /** What watches it. */
  readonly watch?: Extract<BreakpointSpec, { kind: 'watch' | 'entry' }>;
}

type Container = () => readonly VariableNode[];

/** Children that the client may ask for, by number, as long as the machine stands still. */
export class Variables {
  readonly #handles = new Handles<Container>();

  /** The machine has moved: numbers mean nothing any more. */
  forget(): void {
    this.#handles.forget();
  }

  add(container: Container): number {
    return this.#handles.create(container);
  }

  /** Throws a RequestError for a number that is not known. */
  children(number: number): readonly VariableNode[] {
    const container = this.#handles.get(number);
    if (container === undefined) {
      throw new RequestError(`there are no variables ${number}: they go when the machine moves`);
    }
    return container();
  }

  list({
    variablesReference,
    filter,
    start,
    count,
    format,
  }: Arguments<'variables'>): DebugProtocol.Variable[] {
    const all = this.children(variablesReference);
    if (filter === 'indexed') return [];
    const part = count > 0 ? all.slice(start, start + count) : all.slice(start);
    return part.map((node) => this.#shown(node, format?.hex === true));
  }

  #shown(node: VariableNode, asHex: boolean): DebugProtocol.Variable {
    const { name, type, memory, evaluateName, children } = node;
    return {
      name,
      value: numberText(node.value, asHex),
      variablesReference: children === undefined ? 0 : this.add(() => children()),
      ...(type === undefined ? {} : { type }),
      ...(memory === undefined ? {} : { memoryReference: memory }),
      ...(evaluateName === undefined ? {} : { evaluateName }),
      ...(node.set === undefined ? { presentationHint: { attributes: ['readOnly'] } } : {}),
    };
  }
}

function numberText(value: string | number, asHex: boolean): string {
  if (typeof value === 'string') return value;
  return asHex ? `0x${value.toString(16)}` : String(value);
}

/** `0xffff888000001000 <a.page(3)>`. */
export function addressText(session: DebugSession, value: bigint): string {
  const name = value > 0xffffn ? session.nameOf(value) : null;
  return name === null ? hex(value) : `${hex(value)} <${name}>`;
}

/** A value that may be an address: with a look at memory if there is something. */
export function addressNode(session: DebugSession, name: string, value: bigint): VariableNode {
  return { name, value: addressText(session, value), ...memoryAt(session, value) };
}

export function memoryAt(session: DebugSession, value: bigint): { readonly memory?: string } {
  return value > 0xffffn && isMapped(session, value) ? { memory: reference(value) } : {};
}
