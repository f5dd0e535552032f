/** A command that cannot be carried out as it was typed; the message is one clear line. */
export class CommandError extends Error {
  override name = 'CommandError';
}
