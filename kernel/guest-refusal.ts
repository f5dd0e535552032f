/**
 * What code that was given to the laboratory asks of a function whose body is host code, and what that cannot work
 * with: a pointer to nothing, say, which the kernel would follow. A mistake of who wrote the code, not of a port.
 */
export class GuestRefusal extends Error {
  override name = 'GuestRefusal';
}
