const brand = Symbol.for('aios-mesh/component-error')

/**
 * Thrown by a block's author for a packet that no other copy of the block could answer either: the caller gets
 * COMPONENT_ERROR and nobody retries. Anything else a block throws counts as a failed instance, which may be retried.
 */
export class ComponentError extends Error {
  /** A bundle carries its own copy of this class, so it is known by this brand and not by `instanceof`. */
  readonly [brand] = true
  readonly details: Readonly<Record<string, string | number | boolean | null>>

  constructor(message: string, details: Readonly<Record<string, string | number | boolean | null>> = {}) {
    super(message)
    this.name = 'ComponentError'
    this.details = details
  }
}

/** Whether `error` is a ComponentError of this copy of the SDK or of another. */
export function isComponentError(error: unknown): error is ComponentError {
  return error instanceof Error && brand in error
}
