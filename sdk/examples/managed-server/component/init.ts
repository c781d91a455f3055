import { defineLifecycle, list, number, record, text, type Json } from 'aios-mesh/sdk'

type Server = { readonly url: string; readonly model: string; readonly contextTokens: number; readonly region: string }

/**
 * Chooses, from a fleet that operators run, the smallest server that holds the contexts the block asks for, in the region its
 * labels ask for. What it answers last stands in `blockInitData.initContainer`.
 */
export default defineLifecycle(class {
  readonly #block: Readonly<Record<string, Json>>
  readonly #mode: 'create' | 'remove'

  constructor(envs: Readonly<Record<string, Json>>, block: Readonly<Record<string, Json>>, _cluster: Readonly<Record<string, Json>>, _k8s: null, mode: 'create' | 'remove') {
    this.#block = block
    this.#mode = mode
    console.log(`lifecycle of ${String(envs['BLOCK_ID'])}: ${mode}`)
  }

  begin(): [boolean, Json] {
    if (this.#mode === 'remove') return [true, null]
    const servers = this.#servers()
    return servers.length === 0 ? [false, 'blockInitData.servers names no server'] : [true, { servers: servers.length }]
  }

  main(): [boolean, Json] {
    if (this.#mode === 'remove') return [true, null]
    const wanted = number(record(this.#block['initSettings'] ?? {})['context_tokens'] ?? 4_096, 'context_tokens')
    const region = record(this.#block['labels'] ?? {})['region']
    const fitting = this.#servers().filter(server => server.contextTokens >= wanted && (region === undefined || server.region === region)).sort((a, b) => a.contextTokens - b.contextTokens)
    const [chosen] = fitting
    return chosen === undefined ? [false, `no server of the fleet holds ${wanted} tokens${region === undefined ? '' : ` in ${String(region)}`}`] : [true, { ...chosen }]
  }

  finish(extra: Json): [boolean, Json] {
    if (this.#mode === 'remove') return [true, 'nothing was started, so nothing is left']
    const { url, model, contextTokens } = record(extra)
    return [true, { inference_url: text(url, 'url'), metrics_url: `${text(url, 'url')}/metrics`, model: text(model, 'model'), context_tokens: number(contextTokens, 'contextTokens') }]
  }

  #servers(): readonly Server[] {
    return list(record(this.#block['initData'] ?? {})['servers'] ?? [], 'servers').map(server => {
      const { url, model, contextTokens, region } = record(server)
      return { url: text(url, 'url'), model: text(model, 'model'), contextTokens: number(contextTokens, 'contextTokens'), region: region === undefined || region === null ? '' : text(region, 'region') }
    })
  }
})
