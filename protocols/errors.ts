/**
 * Every failure that crosses a boundary (wire, HTTP, CLI). One row a code: HTTP status, gRPC status, and whether trying
 * again, here or on another peer, may help. `protocols/README.md` lists the same codes and a test compares the two.
 */
export const ERRORS = {
  BAD_INPUT: { http: 400, grpc: 3, retryable: false },
  SPEC_INVALID: { http: 400, grpc: 3, retryable: false },
  GRAPH_INVALID: { http: 400, grpc: 3, retryable: false },
  PROTOCOL_MISMATCH: { http: 400, grpc: 3, retryable: false },
  MESSAGE_INVALID: { http: 400, grpc: 3, retryable: false },
  MESSAGE_TOO_LARGE: { http: 413, grpc: 3, retryable: false },
  SIGNATURE_INVALID: { http: 401, grpc: 16, retryable: false },
  UNAUTHENTICATED: { http: 401, grpc: 16, retryable: false },
  FORBIDDEN: { http: 403, grpc: 7, retryable: false },
  NETWORK_REFUSED: { http: 403, grpc: 7, retryable: false },
  STALE: { http: 409, grpc: 9, retryable: false },
  EPOCH_FENCED: { http: 409, grpc: 9, retryable: true },
  NOT_FOUND: { http: 404, grpc: 5, retryable: false },
  ALREADY_EXISTS: { http: 409, grpc: 6, retryable: false },
  IMMUTABLE: { http: 409, grpc: 9, retryable: false },
  CONFLICT: { http: 409, grpc: 10, retryable: false },
  NO_CAPACITY: { http: 503, grpc: 8, retryable: true },
  NO_INSTANCE: { http: 503, grpc: 14, retryable: true },
  OVERLOADED: { http: 429, grpc: 8, retryable: true },
  RATE_LIMITED: { http: 429, grpc: 8, retryable: true },
  PEER_UNREACHABLE: { http: 503, grpc: 14, retryable: true },
  PROTOCOL_UNSUPPORTED: { http: 501, grpc: 12, retryable: false },
  DEADLINE: { http: 504, grpc: 4, retryable: true },
  CANCELLED: { http: 499, grpc: 1, retryable: false },
  INSTANCE_FAILED: { http: 502, grpc: 13, retryable: true },
  COMPONENT_ERROR: { http: 422, grpc: 9, retryable: false },
  RUNTIME_UNAVAILABLE: { http: 501, grpc: 12, retryable: false },
  POLICY_DENIED: { http: 403, grpc: 7, retryable: false },
  POLICY_FAILED: { http: 500, grpc: 13, retryable: false },
  CONTENT_UNAVAILABLE: { http: 503, grpc: 14, retryable: true },
  CONTENT_CORRUPT: { http: 502, grpc: 15, retryable: true },
  STORAGE_FULL: { http: 507, grpc: 8, retryable: true },
  STORAGE_FAILED: { http: 500, grpc: 13, retryable: true },
  RUN_FAILED: { http: 500, grpc: 13, retryable: false },
  INTERNAL: { http: 500, grpc: 13, retryable: false },
} as const satisfies Record<string, { http: number; grpc: number; retryable: boolean }>

export type ErrorCode = keyof typeof ERRORS

export type ErrorDetails = Readonly<Record<string, string | number | boolean | null | undefined>>

/** What happens all the time in a large mesh, and is nobody's mistake. */
const EVERYDAY: ReadonlySet<ErrorCode> = new Set(['DEADLINE', 'PEER_UNREACHABLE', 'CANCELLED', 'RATE_LIMITED'])

/** A failure with a stable code and a message its reader can act on. Bugs are assertions, never this. */
export class MeshError extends Error {
  readonly code: ErrorCode
  readonly details: ErrorDetails
  readonly retryable: boolean

  constructor(code: ErrorCode, message: string, options: { details?: ErrorDetails; cause?: unknown; retryable?: boolean } = {}) {
    const frames = Error.stackTraceLimit
    // Where a peer did not answer says nothing, and walking the stack costs more than all the rest of a lost question.
    if (EVERYDAY.has(code)) Error.stackTraceLimit = 0
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    Error.stackTraceLimit = frames
    this.name = 'MeshError'
    this.code = code
    this.details = options.details ?? {}
    this.retryable = options.retryable ?? ERRORS[code].retryable
  }

  get httpStatus(): number {
    return ERRORS[this.code].http
  }

  toJSON(): { code: ErrorCode; message: string; retryable: boolean; details: ErrorDetails } {
    return { code: this.code, message: this.message, retryable: this.retryable, details: this.details }
  }
}

export function isErrorCode(value: string): value is ErrorCode {
  return Object.hasOwn(ERRORS, value)
}

/** The MeshError inside `error`, or an INTERNAL one that keeps it as its cause. */
export function asMeshError(error: unknown): MeshError {
  if (error instanceof MeshError) return error
  const message = error instanceof Error ? error.message : String(error)
  return new MeshError('INTERNAL', message, { cause: error })
}

/** An expected refusal: why, and whether waiting could change the answer. */
export type Verdict<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly because: string; readonly retryable: boolean }

export function granted<T>(value: T): Verdict<T> {
  return { ok: true, value }
}

export function refused(because: string, retryable = false): { readonly ok: false; readonly because: string; readonly retryable: boolean } {
  return { ok: false, because, retryable }
}
