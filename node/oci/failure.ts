import { asMeshError } from '../../protocols/errors.ts'

/** The error codes of the OCI distribution spec, with the status each is answered with. */
const STATUS = {
  BLOB_UNKNOWN: 404, BLOB_UPLOAD_INVALID: 400, BLOB_UPLOAD_UNKNOWN: 404, DIGEST_INVALID: 400, MANIFEST_BLOB_UNKNOWN: 404, MANIFEST_INVALID: 400, MANIFEST_UNKNOWN: 404,
  NAME_INVALID: 400, NAME_UNKNOWN: 404, SIZE_INVALID: 413, UNAUTHORIZED: 401, DENIED: 403, UNSUPPORTED: 405, TOOMANYREQUESTS: 429, RANGE_INVALID: 416, UNKNOWN: 500,
} as const
export type OciCode = keyof typeof STATUS

/** A failure in the words that registry clients understand. */
export class OciError extends Error {
  readonly code: OciCode
  readonly headers: Readonly<Record<string, string>>

  constructor(code: OciCode, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message)
    this.name = 'OciError'
    this.code = code
    this.headers = headers
  }

  get status(): number {
    return STATUS[this.code]
  }
}

/** What the mesh says of a failure, as a registry says it. */
export function asOciError(error: unknown): OciError {
  if (error instanceof OciError) return error
  const { code, message } = asMeshError(error)
  switch (code) {
    case 'FORBIDDEN': case 'NETWORK_REFUSED': case 'IMMUTABLE': return new OciError('DENIED', message)
    case 'UNAUTHENTICATED': return new OciError('UNAUTHORIZED', message)
    case 'NOT_FOUND': case 'CONTENT_UNAVAILABLE': return new OciError('BLOB_UNKNOWN', message)
    case 'RATE_LIMITED': case 'OVERLOADED': return new OciError('TOOMANYREQUESTS', message)
    case 'MESSAGE_TOO_LARGE': return new OciError('SIZE_INVALID', message)
    case 'BAD_INPUT': case 'SPEC_INVALID': case 'MESSAGE_INVALID': return new OciError('MANIFEST_INVALID', message)
    default: return new OciError('UNKNOWN', `${code}: ${message}`)
  }
}
