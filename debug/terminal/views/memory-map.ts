/** Mappings of the task, and the kernel's address space. */
import { hex16 } from '../../../emu/address.js';
import type { RangeView, VmaView } from '../../views.js';
import { sizeText } from '../format.js';
import { dim, hanging, here, type Line, line } from '../lines.js';

/** As /proc/PID/maps has them. */
export function vmaLines(vmas: readonly VmaView[], mark: bigint | null): Line[] {
  if (vmas.length === 0) return [line(dim('The task has no mappings.'))];
  return vmas.map(({ start, end, flags, what }) => {
    const inside = mark !== null && mark >= start && mark < end;
    const range = `${start.toString(16)}-${end.toString(16)}`;
    return hanging(
      4,
      inside ? here('=> ') : '   ',
      range,
      ` ${flags}`,
      what === '' ? '' : ` ${what}`,
      dim(` ${sizeText(end - start)}`),
    );
  });
}

/** The ranges, those inside of others indented; `mark` is the address that one looks for. */
export function layoutLines(ranges: readonly RangeView[], mark: bigint | null): Line[] {
  const open: RangeView[] = [];
  return ranges.map((range) => {
    const { start, end } = range;
    while (open.length > 0 && (open.at(-1)?.end ?? 0n) <= start) open.pop();
    const depth = open.length;
    open.push(range);
    const inside = mark !== null && mark >= start && mark < end;
    return hanging(
      4 + 2 * depth,
      inside ? here('=> ') : '   ',
      '  '.repeat(depth),
      `${hex16(start)}-${hex16(end - 1n)}  `,
      range.name,
      dim(` ${sizeText(end - start)}`),
    );
  });
}
