import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { json } from '../../protocols/ids.ts'
import { decision, reviewRecord } from '../../protocols/reviews.ts'
import { arg, flag, type Command } from './command.ts'
import { pretty, shortId, table } from './output.ts'

export const reviewCommands: readonly Command[] = [
  {
    words: ['reviews'], args: '', count: [0, 0], what: 'failures and answers that wait for a person, of every peer',
    options: [{ name: 'all', what: 'those that were decided, too' }],
    async run(context) {
      const rows = z.array(reviewRecord).parse(await (await context.daemon()).get('/mesh/reviews')).filter(({ decided }) => flag(context, 'all') || decided === 'open')
      context.out.result(rows, () => table(['REVIEW', 'OF', 'AT', 'PEER', ''], rows.map(({ id, vdag, opinion, at, peer, decided, decidedBy }) => [
        id, vdag === '' ? String(Object(opinion).subject ?? 'a failure') : vdag, new Date(at).toISOString(), shortId(peer), decided === 'open' ? String(Object(opinion).reason ?? '') : `${decided} by ${shortId(decidedBy ?? peer)}`,
      ])))
    },
  },
  {
    words: ['reviews', 'show'], args: 'ID', count: [1, 1], what: 'one review: what was asked, what was answered, why it is doubted',
    async run(context) {
      const review = json.parse(await (await context.daemon()).get(`/mesh/reviews/${encodeURIComponent(arg(context, 0))}`))
      context.out.result(review, () => pretty(review))
    },
  },
  {
    words: ['reviews', 'decide'], args: 'ID approved|rejected', count: [2, 2], what: 'answer a review, at any peer; it is answered once',
    async run(context) {
      const said = decision.safeParse(arg(context, 1))
      if (!said.success) throw new MeshError('BAD_INPUT', `say approved or rejected, not ${arg(context, 1)}`)
      const review = reviewRecord.parse(await (await context.daemon()).send('POST', '/mesh/reviews', { id: arg(context, 0), decided: said.data }))
      context.out.result(review, () => `${review.id} is ${review.decided}`)
    },
  },
]
