/** What is answered to a request that cannot be done; the message is complete. */
export class RequestError extends Error {
  override name = 'RequestError';

  constructor(
    message: string,
    readonly options: {
      /** The protocol's word for it, e.g. `notStopped`; the message itself if there is none. */
      readonly word?: string;
      /** The user shall see it even if nobody has asked for it. */
      readonly showUser?: boolean;
    } = {},
  ) {
    super(message);
  }
}

export function notStopped(): RequestError {
  return new RequestError('the machine is running: pause it first', { word: 'notStopped' });
}
