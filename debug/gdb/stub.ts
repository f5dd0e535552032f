/**
 * One debugger's side of the conversation: what each packet is answered with. Knows bytes and a session, no sockets.
 * See "gdb Remote Serial Protocol" in gdb's manual.
 */
import type { DebugSession } from '../api.js';
import { SessionError } from '../session-error.js';
import { symbolFile } from './elf.js';
import { fitting, PACKET_MAX } from './framing.js';
import {
  hexBytes,
  hexText,
  hexWord,
  PacketError,
  parseBytes,
  parseHex,
  parseSmall,
  parseWord,
} from './hex.js';
import { monitor } from './monitor.js';
import { ERROR_CODE, type GdbRegister, type Target, targetOf, targetXml } from './registers.js';
import { type Placed, type Resumed, RunControl } from './run-control.js';
import { pathOf, ServedFile } from './served-file.js';

/** What becomes of the connection behind an answer. */
export type After = 'stay' | 'detach' | 'kill';

export interface Answer {
  /** Packets in order; none for what is not answered. */
  readonly packets: readonly Uint8Array[];
  readonly after: After;
  /** The packet behind this one needs no acknowledgement any more. */
  readonly noAck?: boolean;
}

/** A session as debuggers see it, one after the other. */
export class Stub {
  readonly control: RunControl;
  readonly #session: DebugSession;
  readonly #target: Target;
  readonly #file: ServedFile;
  /** CPU that `g`, `p` and so on are about; null: the one that runs. */
  #cpu: number | null = null;
  #extended = false;
  #physical = false;

  /** @param name of the fixture, for the name of the file */
  constructor(session: DebugSession, name: string) {
    this.#session = session;
    this.#target = targetOf(session.arch);
    this.control = new RunControl(session, this.#target);
    this.#file = new ServedFile(pathOf(name), () => symbolFile(session));
  }

  /** The debugger has gone, with or without a word: what it has set goes with it. */
  disconnected(): void {
    this.control.forget();
    this.#file.closeAll();
    this.#cpu = null;
    this.#extended = false;
    this.#physical = false;
  }

  /**
   * Answers a packet.
   * @param notice sends a packet at once: output while the machine runs
   */
  async answer(data: Uint8Array, notice: (data: Uint8Array) => void): Promise<Answer> {
    const text = Buffer.from(data).toString('latin1');
    try {
      return (await this.#answer(text, data, notice)) ?? say('');
    } catch (error) {
      if (error instanceof PacketError) return say('E16');
      // gdb shows the text behind the point, and has done so long before it could announce that (error-message+).
      if (error instanceof SessionError) return say(`E.${ascii(error.message)}`);
      throw error;
    }
  }

  async #answer(text: string, data: Uint8Array, notice: (data: Uint8Array) => void): Promise<Answer | null> {
    const rest = text.slice(1);
    switch (text[0]) {
      case '?':
        return say(this.control.reply);
      case '!':
        this.#extended = true;
        return say('OK');
      case 'g':
        return rest === '' ? say(this.#registers()) : null;
      case 'G':
        return this.#writeAll(rest);
      case 'p':
        return this.#readOne(rest);
      case 'P':
        return this.#writeOne(rest);
      case 'm':
        return this.#read(rest);
      case 'M':
        return this.#write(rest.slice(0, colonOf(rest)), parseBytes(rest.slice(colonOf(rest) + 1)));
      case 'X': {
        const colon = colonOf(text);
        return this.#write(text.slice(1, colon), data.subarray(colon + 1));
      }
      case 'Z':
      case 'z':
        return this.#breakpoint(text[0] === 'Z', rest);
      case 'c':
      case 'C':
      case 's':
      case 'S':
        return this.#resume(text, notice);
      case 'b':
        if (rest === 'c') return this.#resumed(() => this.control.continueBack(), notice);
        return rest === 's' ? this.#resumed(() => this.control.stepBack(), notice) : null;
      case 'H':
        return this.#choose(rest);
      case 'T':
        return say(this.#cpuOf(rest) === null ? 'E01' : 'OK');
      case 'D':
        return { ...say('OK'), after: 'detach' };
      case 'k':
        return this.#kill([]);
      case 'R':
        if (!this.#extended) return null;
        await this.control.restart();
        return { packets: [], after: 'stay' };
      case 'v':
        return this.#verbose(text, notice);
      case 'q':
      case 'Q':
        return this.#query(text);
      default:
        return null;
    }
  }

  /** Whoever can start it anew (`target extended-remote`) kills the run; for the others it is the end of the session. */
  async #kill(packets: readonly Uint8Array[]): Promise<Answer> {
    if (!this.#extended) return { packets, after: 'kill' };
    await this.control.restart();
    return { packets, after: 'stay' };
  }

  // Registers.

  #registers(): string {
    const cpu = this.#cpu ?? this.#session.cpu;
    return this.#target.registers.map((register) => this.#valueOf(register, cpu)).join('');
  }

  #valueOf({ source, bits }: GdbRegister, cpu: number): string {
    const digits = bits / 4;
    if (source === null) return 'x'.repeat(digits);
    if (source === ERROR_CODE) {
      const { fault, over } = this.#session.path();
      return fault === null || over ? 'x'.repeat(digits) : hexWord(fault.code, bits / 8);
    }
    return hexWord(this.#session.register(source, cpu), bits / 8);
  }

  #numbered(text: string): GdbRegister {
    const register = this.#target.registers[parseSmall(text)];
    if (register === undefined) throw new PacketError(`no register ${text}`);
    return register;
  }

  #readOne(text: string): Answer {
    return say(this.#valueOf(this.#numbered(text), this.#cpu ?? this.#session.cpu));
  }

  #writeOne(text: string): Answer {
    const equals = text.indexOf('=');
    if (equals < 0) throw new PacketError('no value');
    const register = this.#numbered(text.slice(0, equals));
    const digits = text.slice(equals + 1);
    if (digits.length !== register.bits / 4) throw new PacketError('not as long as the register');
    const { source } = register;
    if (source === null || source === ERROR_CODE) {
      throw new SessionError(`${register.name} cannot be written`);
    }
    this.#changed(this.#session.writeRegister(source, parseWord(digits), this.#cpu ?? this.#session.cpu));
    return say('OK');
  }

  /** All or none. */
  #writeAll(text: string): Answer {
    const before = this.#registers();
    if (text.length !== before.length || !/^[0-9a-fx]*$/i.test(text))
      throw new PacketError('not all registers');
    const cpu = this.#cpu ?? this.#session.cpu;
    const written: { readonly source: string; readonly value: bigint }[] = [];
    let at = 0;
    try {
      for (const { source, bits } of this.#target.registers) {
        const [old, digits] = [before, text].map((each) => each.slice(at, at + bits / 4).toLowerCase());
        at += bits / 4;
        if (digits === undefined || digits === old || digits.includes('x')) continue;
        if (source === null || source === ERROR_CODE) continue;
        const value = this.#session.register(source, cpu);
        this.#changed(this.#session.writeRegister(source, parseWord(digits), cpu));
        written.push({ source, value });
      }
    } catch (error) {
      for (const { source, value } of written.reverse()) this.#session.writeRegister(source, value, cpu);
      throw error;
    }
    return say('OK');
  }

  /** The user learns at the next stop what a change has made the session forget. */
  #changed({ dropped, text }: { readonly dropped: readonly unknown[]; readonly text: string }): void {
    if (dropped.length > 0) this.control.note(text);
  }

  // Memory.

  #range(text: string): { readonly address: bigint; readonly length: number } {
    const comma = text.indexOf(',');
    if (comma < 0) throw new PacketError('no length');
    return { address: parseHex(text.slice(0, comma)), length: parseSmall(text.slice(comma + 1)) };
  }

  #read(text: string): Answer {
    const { address, length } = this.#range(text);
    if (length === 0) return say('');
    // What does not fit is asked for again.
    const wanted = Math.min(length, PACKET_MAX / 2 - 2);
    const bytes = this.#physical
      ? this.#physicalBytes(address, wanted)
      : this.#session.readMapped(address, wanted);
    return say(bytes.length === 0 ? 'E14' : hexBytes(bytes));
  }

  #physicalBytes(address: bigint, length: number): Uint8Array {
    const { base, size } = this.#session.ram;
    const end = BigInt(base + size);
    if (address < BigInt(base) || address >= end) return new Uint8Array();
    const room = Number(end - address);
    return this.#session.readPhysical(Number(address), Math.min(length, room)) ?? new Uint8Array();
  }

  #write(range: string, bytes: Uint8Array): Answer {
    const { address, length } = this.#range(range);
    if (bytes.length !== length) throw new PacketError('not as many bytes as it says');
    if (length === 0) return say('OK');
    const session = this.#session;
    if (this.#physical) {
      if (this.#physicalBytes(address, length).length < length) return say('E14');
      this.#changed(session.writePhysical(Number(address), bytes));
    } else {
      if (session.readMapped(address, length).length < length) return say('E14');
      this.#changed(session.writeMemory(address, bytes));
    }
    return say('OK');
  }

  // Breakpoints.

  #breakpoint(insert: boolean, text: string): Answer | null {
    const [type, address, kind, more] = text.split(/[,;]/, 4);
    if (!/^[0-4]$/.test(type ?? '')) return null;
    // Conditions and commands are not announced.
    if (more !== undefined && more !== '') throw new PacketError('a condition');
    const number = Number(type);
    const length = parseSmall(kind);
    const placed: Placed = { type: number, address: parseHex(address), length: number < 2 ? 0 : length };
    if (insert) this.control.insert(placed);
    else this.control.remove(placed);
    return say('OK');
  }

  // Going on.

  async #resumed(move: () => Promise<Resumed>, notice: (data: Uint8Array) => void): Promise<Answer> {
    const { reply, notes } = await move();
    for (const note of notes) for (const part of outputs(`${note}\n`)) notice(part);
    return say(reply);
  }

  /** The plain packets: `c`, `s`, with a signal, which there is nobody to get, and an address. */
  async #resume(text: string, notice: (data: Uint8Array) => void): Promise<Answer> {
    const signalled = text[0] === 'C' || text[0] === 'S';
    const match = (signalled ? /^.([0-9a-f]{2})(?:;([0-9a-f]+))?$/i : /^.()([0-9a-f]+)?$/i).exec(text);
    if (match === null) throw new PacketError('no way to go on');
    if (match[2] !== undefined && match[2] !== '') {
      const pc = this.#target.registers[this.#target.pc]?.source ?? 'pc';
      this.#changed(this.#session.writeRegister(pc, parseHex(match[2]), this.#session.cpu));
    }
    const step = text[0] === 's' || text[0] === 'S';
    return this.#resumed(() => (step ? this.control.step() : this.control.continue()), notice);
  }

  /** The machine decides which CPU runs: any action for any thread is one for it. */
  async #vCont(text: string, notice: (data: Uint8Array) => void): Promise<Answer> {
    const [action = ''] = text.slice('vCont;'.length).split(';', 1);
    const match =
      /^(?:([cs])|([CS])[0-9a-fA-F]{2}|r([0-9a-fA-F]+),([0-9a-fA-F]+))(?::(?:[0-9a-fA-F]+|-1))?$/.exec(
        action,
      );
    // Not `t`, either: it is for what runs while the debugger asks.
    if (match === null) throw new PacketError('no action');
    const [, plain, signalled, start, end] = match;
    if (start !== undefined) {
      const range = [parseHex(start), parseHex(end)] as const;
      return this.#resumed(() => this.control.stepRange(...range), notice);
    }
    const step = (plain ?? signalled ?? '').toLowerCase() === 's';
    return this.#resumed(() => (step ? this.control.step() : this.control.continue()), notice);
  }

  async #verbose(text: string, notice: (data: Uint8Array) => void): Promise<Answer | null> {
    if (text === 'vCont?') return say('vCont;c;C;s;S;r');
    if (text.startsWith('vCont;')) return this.#vCont(text, notice);
    if (text.startsWith('vFile:')) {
      const bytes = this.#file.answer(text.slice('vFile:'.length));
      return bytes === null ? null : { packets: [bytes], after: 'stay' };
    }
    if (text.startsWith('vKill;')) return this.#kill([latin1('OK')]);
    if (text.startsWith('vRun') && this.#extended) {
      await this.control.restart();
      return say(this.control.reply);
    }
    // Among them vMustReplyEmpty.
    return null;
  }

  // Threads: one for each CPU.

  #cpuOf(id: string): number | null {
    if (!/^[0-9a-f]{1,8}$/i.test(id)) return null;
    const cpu = Number.parseInt(id, 16) - 1;
    return cpu >= 0 && cpu < this.#session.cpus ? cpu : null;
  }

  #choose(rest: string): Answer {
    const [operation = '', id] = [rest[0], rest.slice(1)];
    if (operation !== 'g' && operation !== 'c') throw new PacketError('neither g nor c');
    if (id === '0' || id === '-1') {
      if (operation === 'g') this.#cpu = null;
      return say('OK');
    }
    const cpu = this.#cpuOf(id);
    if (cpu === null) return say('E01');
    if (operation === 'g') this.#cpu = cpu;
    return say('OK');
  }

  #threadText(cpu: number): string {
    const session = this.#session;
    const { comm, pid, mode } = session.task;
    return cpu === session.cpu ? `CPU ${cpu}, ${mode}, ${comm} (${pid})` : `CPU ${cpu}`;
  }

  #threads(): string {
    const lines = Array.from({ length: this.#session.cpus }, (_, cpu) => {
      const body = this.#threadText(cpu).replace(/[&<>]/g, '.');
      return `<thread id="${(cpu + 1).toString(16)}" core="${cpu}">${body}</thread>`;
    });
    return `<?xml version="1.0"?>\n<threads>\n${lines.join('\n')}\n</threads>\n`;
  }

  // Queries.

  #query(text: string): Answer | null {
    const end = /[:;,]/.exec(text)?.index ?? text.length;
    const name = text.slice(0, end);
    const args = text.slice(end + 1);
    switch (name) {
      case 'qSupported':
        return say(this.#supported(args));
      case 'QStartNoAckMode':
        return { ...say('OK'), noAck: true };
      case 'qXfer':
        return this.#transfer(args);
      case 'qAttached':
        // The machine was there before: gdb lets go of it when it ends, and does not kill it.
        return say('1');
      case 'qC':
        return say(`QC${((this.#cpu ?? this.#session.cpu) + 1).toString(16)}`);
      case 'qfThreadInfo':
        return say(
          `m${Array.from({ length: this.#session.cpus }, (_, cpu) => (cpu + 1).toString(16)).join(',')}`,
        );
      case 'qsThreadInfo':
        return say('l');
      case 'qThreadExtraInfo': {
        const cpu = this.#cpuOf(args);
        return say(cpu === null ? 'E01' : hexText(this.#threadText(cpu)));
      }
      case 'qRcmd':
        return this.#monitor(args);
      case 'QPassSignals':
        this.control.passed = new Set(
          args
            .split(';')
            .filter((each) => each !== '')
            .map((each) => parseSmall(each)),
        );
        return say('OK');
      case 'qqemu.PhyMemMode':
        return say(this.#physical ? '1' : '0');
      case 'Qqemu.PhyMemMode':
        if (args !== '0' && args !== '1') throw new PacketError('neither 0 nor 1');
        this.#physical = args === '1';
        return say('OK');
      case 'qSymbol':
        return say('OK');
      default:
        return null;
    }
  }

  #supported(features: string): string {
    this.control.features = new Set(features.split(';'));
    return [
      `PacketSize=${PACKET_MAX.toString(16)}`,
      'QStartNoAckMode+',
      'QPassSignals+',
      'qXfer:features:read+',
      'qXfer:threads:read+',
      'qXfer:exec-file:read+',
      'vContSupported+',
      'swbreak+',
      'hwbreak+',
      'ReverseStep+',
      'ReverseContinue+',
    ].join(';');
  }

  #transfer(args: string): Answer | null {
    const match = /^([a-z-]+):read:([^:]*):([0-9a-f]+),([0-9a-f]+)$/i.exec(args);
    if (match === null) {
      if (/^(features|threads|exec-file):/.test(args)) throw new PacketError('no such transfer');
      return null;
    }
    const [, object, annex, offset, length] = match;
    const whole =
      object === 'features'
        ? annex === 'target.xml'
          ? targetXml(this.#target)
          : undefined
        : object === 'threads'
          ? this.#threads()
          : object === 'exec-file'
            ? this.#file.path
            : null;
    if (whole === null) return null;
    if (whole === undefined) return say('E00');
    const bytes = Buffer.from(whole, 'utf8');
    const from = parseSmall(offset);
    const part = fitting(bytes.subarray(from, from + parseSmall(length)), PACKET_MAX - 1);
    const more = from + part.length < bytes.length ? 'm' : 'l';
    return { packets: [Buffer.concat([latin1(more), part])], after: 'stay' };
  }

  #monitor(args: string): Answer {
    const line = Buffer.from(parseBytes(args)).toString('utf8');
    const text = monitor(line, { session: this.#session, control: this.control });
    return { packets: [...outputs(text), latin1('OK')], after: 'stay' };
  }
}

function colonOf(text: string): number {
  const colon = text.indexOf(':');
  if (colon < 0) throw new PacketError('no bytes');
  return colon;
}

/** Console output in packets that are short enough. */
function outputs(text: string): Uint8Array[] {
  const bytes = Buffer.from(text, 'utf8');
  const room = PACKET_MAX / 2 - 2;
  const parts: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += room) {
    parts.push(latin1(`O${hexBytes(bytes.subarray(at, at + room))}`));
  }
  return parts;
}

function latin1(text: string): Uint8Array {
  return Buffer.from(text, 'latin1');
}

function ascii(text: string): string {
  return text.replace(/[^ -~]/g, '?');
}

function say(text: string): Answer {
  return { packets: [latin1(text)], after: 'stay' };
}
