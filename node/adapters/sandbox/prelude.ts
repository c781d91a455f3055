/**
 * What runs inside a VM before the rule's own source: builds the rule, hands it JSON and takes JSON back. It keeps its
 * own references to the built-ins, so a rule that redefines them confuses only itself. Nothing here is trusted: the
 * host reads no more than the strings these functions return. It evaluates to an object of functions that the host holds and
 * the rule cannot reach.
 *
 * AIOS injects live callables through `settings` (`get_metrics()`, `cluster_client`…). Here they answer from a snapshot
 * the host sends along: `get_*`, `query_*` and the members of `*_client` and `*_api` become functions; with a key as
 * the argument they answer that member of the snapshot.
 */
export const PRELUDE = `(() => {
  'use strict'
  const { parse, stringify } = JSON
  const { apply, construct, ownKeys } = Reflect
  const { assign, defineProperty, getPrototypeOf, hasOwn } = Object
  const { isArray } = Array
  const NativePromise = Promise, NativeError = Error, Text = String
  const then = Promise.prototype.then, test = RegExp.prototype.test, slice = String.prototype.slice
  const sourceOf = Function.prototype.toString
  const CALLABLE = /^(get|query)(_|[A-Z])/, CLIENT = /_(client|api|apis)$/, CLASS = /^class\\b/
  const matches = (pattern, text) => apply(test, pattern, [text])
  const isObject = value => value !== null && typeof value === 'object' && !isArray(value)

  const settings = {}, cache = {}
  let rule, loaded, state = 'none', text = ''

  const describe = (error, limit) => {
    let said
    try {
      said = isObject(error) && 'message' in error ? (error.name === undefined ? 'Error' : error.name) + ': ' + error.message : 'threw ' + (typeof error === 'string' ? error : stringify(error))
    } catch {
      said = 'threw something that cannot be described'
    }
    try { return apply(slice, Text(said), [0, limit]) } catch { return 'threw something that cannot be described' }
  }

  const answer = (snapshot, key) => {
    const found = typeof key === 'string' && isObject(snapshot) ? (hasOwn(snapshot, key) ? snapshot[key] : null) : snapshot
    return parse(stringify(found))
  }
  const lend = (name, value) => {
    if (matches(CALLABLE, name)) return key => answer(value, key)
    if (matches(CLIENT, name) && isObject(value)) {
      const client = {}
      for (const member of ownKeys(value)) client[member] = key => answer(value[member], key)
      return client
    }
    return value
  }
  const inject = given => {
    for (const name of ownKeys(given)) settings[name] = lend(name, given[name])
  }

  const settle = (value, limit) => {
    try {
      const json = stringify(value === undefined ? null : value)
      if (json === undefined) { state = 'threw'; text = 'the answer is not JSON' }
      else if (json.length > limit) { state = 'threw'; text = 'the answer has ' + json.length + ' characters; the limit is ' + limit }
      else { state = 'done'; text = json }
    } catch (error) { fail(error) }
  }
  const fail = error => { text = describe(error, 500); state = 'threw' }

  /** A class is constructed, an object is taken as it is, a function is the rule's eval. */
  const choose = found => {
    if (isObject(found)) {
      if (found.AIOSv1PolicyRule !== undefined) return found.AIOSv1PolicyRule
      if (found.default !== undefined) return choose(found.default)
    }
    return found
  }

  return {
    /** Waits for a module: its namespace is what build will choose from. */
    load(promise) {
      state = 'waiting'
      apply(then, promise, [namespace => { loaded = namespace; state = 'done' }, fail])
    },
    build(found, ruleId, settingsJson, parametersJson) {
      state = 'none'
      try {
        inject(parse(settingsJson))
        const parameters = parse(parametersJson)
        const chosen = choose(found === undefined ? loaded : found)
        if (typeof chosen === 'function') {
          const isClass = matches(CLASS, apply(sourceOf, chosen, [])) || (isObject(chosen.prototype) && typeof chosen.prototype.eval === 'function')
          rule = isClass ? construct(chosen, [ruleId, settings, parameters]) : { eval: chosen }
        } else rule = chosen
        defineProperty(cache, 'settings', { value: settings, enumerable: false })
        if (!isObject(rule) || typeof rule.eval !== 'function') { state = 'invalid'; text = 'found no rule: export a default { eval } or function, or define class AIOSv1PolicyRule' }
        else { state = 'done'; text = 'null' }
      } catch (error) { fail(error) }
      return state
    },
    call(method, first, second, third, fresh, limit) {
      state = 'none'
      try {
        if (fresh !== '') inject(parse(fresh))
        const target = rule[method]
        if (typeof target !== 'function') { state = 'invalid'; text = 'the rule has no ' + method; return state }
        let args
        if (method === 'eval') {
          const context = parse(third)
          if (isObject(context)) assign(cache, context)
          args = [parse(first), parse(second), cache]
        } else args = [first, parse(second)]
        const value = apply(target, rule, args)
        if (value !== null && typeof value === 'object' && typeof value.then === 'function') {
          const promise = value instanceof NativePromise && getPrototypeOf(value) === NativePromise.prototype ? value : new NativePromise(done => done(value))
          state = 'waiting'
          apply(then, promise, [settled => settle(settled, limit), fail])
        } else settle(value, limit)
      } catch (error) { fail(error) }
      return state
    },
    state: () => state,
    text: () => text,
  }
})()`

/** Finds what a script defined. Runs in the global scope, where `class` and `const` of an earlier script are visible. */
export const LOCATE = `typeof AIOSv1PolicyRule !== 'undefined' ? AIOSv1PolicyRule : typeof AIOSPolicy !== 'undefined' ? AIOSPolicy : module.exports`

/** Name the bundler gives the namespace object of a rule that is published as one script. */
export const BUNDLE_GLOBAL = 'AIOSPolicy'
