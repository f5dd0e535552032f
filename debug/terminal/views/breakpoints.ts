/** Breakpoints, changes, and the call stack. */
import { hex16 } from '../../../emu/address.js';
import type { Breakpoint, BreakpointSpec } from '../../breakpoints.js';
import type { FrameView } from '../../views.js';
import { dim, hanging, here, type Line, line, name } from '../lines.js';

/** gdb's words for kinds of breakpoints. */
function kindText(spec: BreakpointSpec): string {
  switch (spec.kind) {
    case 'address':
      return 'breakpoint';
    case 'function':
      return 'path breakpoint';
    case 'watch':
      return { read: 'read watchpoint', write: 'watchpoint', access: 'acc watchpoint' }[spec.access];
    case 'entry':
      return 'pte watchpoint';
    case 'fault':
    case 'kfence':
    case 'scratch':
    case 'oops':
    case 'console':
    case 'fixture-step':
      return 'catchpoint';
  }
}

export function breakpointLines(breakpoints: readonly Breakpoint[]): Line[] {
  if (breakpoints.length === 0) return [line('No breakpoints or watchpoints.')];
  const out = [hanging(4, dim('Num Type            Disp Enb What'))];
  for (const breakpoint of breakpoints) {
    const { id, spec, enabled, temporary, text } = breakpoint;
    const kind = kindText(spec).padEnd(16);
    const head = `${String(id).padEnd(4)}${kind}${temporary ? 'del ' : 'keep'} ${enabled ? 'y' : 'n'}   `;
    out.push(hanging(4, head, text), ...details(breakpoint).map((each) => hanging(8, `        ${each}`)));
  }
  return out;
}

/** gdb's lines below a breakpoint. */
function details({ condition, ignore, hits }: Breakpoint): string[] {
  const times = hits === 1 ? '1 time' : `${hits} times`;
  return [
    ...(condition === null ? [] : [`stop only if ${condition}`]),
    ...(hits === 0 ? [] : [`breakpoint already hit ${times}`]),
    ...(ignore === 0 ? [] : [`ignore next ${ignore} hits`]),
  ];
}

/** Innermost first; functions of the path have no code of their own. */
export function backtraceLines(frames: readonly FrameView[], limit: number | null): Line[] {
  if (frames.length === 0) return [line('No stack: no code of the fixture runs here.')];
  const shown = limit === null ? frames : limit < 0 ? frames.slice(limit) : frames.slice(0, limit);
  const out = shown.map(({ level, kind, pc, name: fn }) => {
    const number = `#${level}`.padEnd(4);
    const place = pc === null ? '' : `${hex16(pc)} in `;
    const tail = kind === 'path' ? dim('  (path)') : '';
    return hanging(4, level === 0 ? here(number) : number, dim(place), name(fn), tail);
  });
  if (shown.length < frames.length && (limit ?? 0) > 0) out.push(line(dim('(More stack frames follow...)')));
  return out;
}
