import { z } from 'zod'
import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { BlockRecord } from '../../protocols/specs.ts'

const settings = z.looseObject({ inference_url: z.string().optional(), url: z.string().optional(), base_url: z.string().optional(), initContainer: z.looseObject({ inference_url: z.string().optional() }).optional() })

/** The server that a block of runtime `external` stands for: what its init lifecycle found, else what its author wrote. */
export function externalServer({ initData }: Pick<BlockRecord, 'initData'>): Verdict<{ readonly origin: string; readonly url: string }> {
  const read = settings.safeParse(initData)
  const url = read.success ? read.data.initContainer?.inference_url ?? read.data.inference_url ?? read.data.url ?? read.data.base_url : undefined
  if (url === undefined) return refused('the block names no server: give blockInitData.inference_url, for example "http://127.0.0.1:8000"')
  if (!URL.canParse(url)) return refused(`${url.slice(0, 200)} is no URL`)
  const { protocol, origin, username } = new URL(url)
  if ((protocol !== 'http:' && protocol !== 'https:') || username !== '') return refused(`${url.slice(0, 200)} is no plain http or https URL`)
  return granted({ origin, url })
}
