import type { z } from 'zod'
import type { Context } from 'hono'
import { asMeshError, MeshError } from '../../../protocols/errors.ts'
import { mustBeShallow } from '../../../src/lib/json.ts'

/** OpenAI's error object. */
export type OpenAiError = { readonly error: { readonly message: string; readonly type: string; readonly param: string | null; readonly code: string | null } }

/** A failure as OpenAI's clients read it. */
export function openAiError(error: MeshError): OpenAiError {
  const { param, code } = error.details
  return { error: { message: error.message, type: typeOf(error.httpStatus), param: typeof param === 'string' ? param : null, code: typeof code === 'string' ? code : error.code.toLowerCase() } }
}

export function refuseOpenAi(context: Context, failure: unknown): Response {
  const error = asMeshError(failure)
  const headers = new Headers({ 'content-type': 'application/json' })
  if (error.httpStatus === 429 || error.httpStatus === 503) headers.set('retry-after', '1')
  return new Response(`${JSON.stringify(openAiError(error))}\n`, { status: context.req.raw.signal.aborted ? 499 : error.httpStatus, headers })
}

/** Wrong in one parameter, which OpenAI's errors name. */
export function wrong(param: string, message: string, code?: string): MeshError {
  return new MeshError('BAD_INPUT', message, { details: { param, ...(code === undefined ? {} : { code }) } })
}

/** The JSON body, checked. Throws BAD_INPUT with the first parameter that is wrong. */
export async function openAiBody<S extends z.ZodType>(context: Context, schema: S): Promise<z.infer<S>> {
  let given: unknown
  try {
    given = await context.req.json()
  } catch (cause) {
    throw new MeshError('BAD_INPUT', 'We could not parse the JSON body of your request.', { cause })
  }
  mustBeShallow(given, 'The body')
  const { success, data, error } = schema.safeParse(given)
  if (success) return data
  const [issue] = error.issues
  if (issue?.code === 'unrecognized_keys') throw wrong(issue.keys[0] ?? '', `Unrecognized request argument supplied: ${issue.keys.join(', ')}`, 'unknown_parameter')
  const param = issue?.path.join('.') ?? ''
  throw wrong(param, `Invalid value for '${param}': ${issue?.message ?? 'it is not what was expected'}`, 'invalid_value')
}

function typeOf(status: number): string {
  if (status === 401) return 'authentication_error'
  if (status === 403) return 'permission_error'
  if (status === 429) return 'rate_limit_error'
  return status < 500 ? 'invalid_request_error' : 'server_error'
}
