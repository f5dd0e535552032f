/** The user has asked for what cannot be done; the message says what and why, for people. */
export class SessionError extends Error {
  override name = 'SessionError';
}
