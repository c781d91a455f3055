import { compare } from './operators.ts'
import { print } from './printing.ts'
import { isLower, isUpper } from './text-methods.ts'
import { asNumber, bind, canIterate, Float, isDict, isList, Markup, Missing, Range, TemplateFault, Thing, Tuple, typeName, type Value } from './values.ts'

/** A test: the value, and what it was given besides. */
export type Test = (value: Value, list: readonly Value[]) => boolean

const plain = (ask: (value: Value) => boolean): Test => (value, list) => {
  bind({ list, named: new Map() }, 'the test')
  return ask(value)
}
const against = (sign: string): Test => (value, list) => compare(sign, value, one(list))

function one(list: readonly Value[]): Value {
  const [given = null] = bind({ list, named: new Map() }, 'the test', 'other')
  if (list.length === 0) throw new TemplateFault('the test wants something to hold the value against')
  return given
}

function whole(value: Value): number {
  const number = asNumber(value)
  if (value instanceof Missing) return value.fail()
  if (number === undefined) throw new TemplateFault(`a number is required, not ${typeName(value)}`)
  return number
}

const remainder = (value: Value, by: number): number => ((whole(value) % by) + by) % by
const isText = (value: Value): boolean => typeof value === 'string' || value instanceof Markup

/** What may stand after `is`. */
export const TESTS: ReadonlyMap<string, Test> = new Map<string, Test>([
  ['defined', plain(value => !(value instanceof Missing))],
  ['undefined', plain(value => value instanceof Missing)],
  ['none', plain(value => value === null)],
  ['true', plain(value => value === true)],
  ['false', plain(value => value === false)],
  ['boolean', plain(value => typeof value === 'boolean')],
  ['integer', plain(value => typeof value === 'number')],
  ['float', plain(value => value instanceof Float)],
  ['number', plain(value => asNumber(value) !== undefined)],
  ['string', plain(isText)],
  ['mapping', plain(isMapping)],
  ['iterable', plain(canIterate)],
  ['sequence', plain(value => isText(value) || value instanceof Tuple || value instanceof Range || value instanceof Missing || (value !== null && typeof value === 'object' && (isList(value) || isMapping(value))))],
  ['callable', plain(value => value instanceof Missing || (value instanceof Thing && value.call !== undefined))],
  ['sameas', (value, list) => value === one(list)],
  ['odd', plain(value => remainder(value, 2) === 1)],
  ['even', plain(value => remainder(value, 2) === 0)],
  ['divisibleby', (value, list) => remainder(value, whole(one(list))) === 0],
  ['lower', plain(value => isLower(print(value)))],
  ['upper', plain(value => isUpper(print(value)))],
  ['in', against('in')],
  ...[['eq', '=='], ['equalto', '=='], ['==', '=='], ['ne', '!='], ['!=', '!='], ['lt', '<'], ['lessthan', '<'], ['<', '<'], ['le', '<='], ['<=', '<='], ['gt', '>'], ['greaterthan', '>'], ['>', '>'], ['ge', '>='], ['>=', '>=']].map(([name = '', sign = '']): [string, Test] => [name, against(sign)]),
])

function isMapping(value: Value): boolean {
  return value !== null && typeof value === 'object' && isDict(value)
}
