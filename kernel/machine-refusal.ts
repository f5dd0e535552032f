/**
 * What a machine cannot have as it was asked for: ram or addresses that have run out, a place that is taken or
 * lies outside, a number that cannot be drawn. A mistake of who asked, in a fixture say, not of a port.
 */
export class MachineRefusal extends Error {
  override name = 'MachineRefusal';
}
