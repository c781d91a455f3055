import assert from 'node:assert/strict'
import { MeshError, type ErrorCode } from '../../protocols/errors.ts'

/** For `assert.throws` and `rejects`: our error of this code, whose message says so. */
export function isMeshCode(code: ErrorCode, says = /./): (error: unknown) => true {
  return error => {
    assert.ok(error instanceof MeshError, String(error))
    assert.equal(error.code, code, error.message)
    assert.match(error.message, says)
    return true
  }
}
