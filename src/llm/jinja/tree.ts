import type { Value } from './values.ts'

export type Given = { readonly list: readonly Expression[]; readonly named: readonly (readonly [string, Expression])[]; readonly spread?: Expression; readonly spreadNamed?: Expression }

export type Expression =
  | { readonly is: 'value'; readonly value: Value }
  | { readonly is: 'name'; readonly name: string }
  | { readonly is: 'list' | 'tuple' | 'join'; readonly items: readonly Expression[] }
  | { readonly is: 'dict'; readonly pairs: readonly (readonly [Expression, Expression])[] }
  | { readonly is: 'attribute'; readonly of: Expression; readonly name: string }
  | { readonly is: 'item'; readonly of: Expression; readonly at: Expression }
  | { readonly is: 'slice'; readonly of: Expression; readonly from?: Expression; readonly to?: Expression; readonly step?: Expression }
  | { readonly is: 'call'; readonly of: Expression; readonly given: Given }
  | { readonly is: 'filter'; readonly of: Expression; readonly name: string; readonly given: Given }
  | { readonly is: 'test'; readonly of: Expression; readonly name: string; readonly given: Given }
  | { readonly is: 'not' | 'minus' | 'plus'; readonly of: Expression }
  | { readonly is: 'and' | 'or'; readonly left: Expression; readonly right: Expression }
  | { readonly is: 'math'; readonly sign: string; readonly left: Expression; readonly right: Expression }
  | { readonly is: 'compare'; readonly first: Expression; readonly rest: readonly (readonly [sign: string, Expression])[] }
  | { readonly is: 'choice'; readonly when: Expression; readonly value: Expression; readonly otherwise?: Expression }

/** What a value is given to: a name, the field of a namespace, or several of them. */
export type Target = { readonly name: string; readonly field?: string } | { readonly parts: readonly Target[] }

export type Parameters = { readonly names: readonly string[]; readonly defaults: readonly Expression[]; readonly uses: ReadonlySet<string> }

/** `line`: where it stands, counted from 1. */
export type Statement = { readonly line: number } & (
  | { readonly is: 'text'; readonly text: string }
  | { readonly is: 'print'; readonly value: Expression }
  | { readonly is: 'if'; readonly branches: readonly (readonly [Expression, Body])[]; readonly otherwise: Body }
  | { readonly is: 'for'; readonly target: Target; readonly of: Expression; readonly only?: Expression; readonly recursive: boolean; readonly body: Body; readonly otherwise: Body }
  | { readonly is: 'set'; readonly target: Target; readonly value: Expression }
  | { readonly is: 'set-block'; readonly target: Target; readonly through: Expression; readonly body: Body }
  | { readonly is: 'filter-block'; readonly through: Expression; readonly body: Body }
  | { readonly is: 'macro'; readonly name: string; readonly parameters: Parameters; readonly body: Body }
  | { readonly is: 'call-block'; readonly call: Expression & { readonly is: 'call' }; readonly parameters: Parameters; readonly body: Body }
  | { readonly is: 'with'; readonly pairs: readonly (readonly [Target, Expression])[]; readonly body: Body }
  | { readonly is: 'break' | 'continue' })
export type Body = readonly Statement[]

/** The name under which the text of a block stands in the filters that it goes through. */
export const BLOCK_TEXT = ' block'
