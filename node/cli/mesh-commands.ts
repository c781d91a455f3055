import { z } from 'zod'
import { capacityAd } from '../../protocols/capacity.ts'
import { right } from '../../protocols/membership.ts'
import { flag, list, text, UsageError, type Command, type Context } from './command.ts'
import { inviteText } from './invite-text.ts'
import { bytes, shortId, table } from './output.ts'

const LAST_MS = 1_000
const peerRow = z.object({ peer: z.string(), self: z.boolean(), state: z.string(), connected: z.boolean(), rttMs: z.number().nullable(), ad: capacityAd.nullable() })
const statusBody = z.object({
  peer: z.string(), network: z.object({ id: z.string(), name: z.string(), owner: z.string() }), addresses: z.array(z.string()), http: z.string(),
  peers: z.int(), live: z.int(), instances: z.int(), blocks: z.int(), runs: z.int(), uptimeMs: z.number(), rssMb: z.number(), rights: z.array(z.string()),
  content: z.object({ freedBytes: z.number(), letGo: z.int() }).optional(),
})
const doctorBody = z.object({ checks: z.array(z.object({ what: z.string(), ok: z.boolean(), because: z.string() })) })
const inviteBody = z.object({ invite: z.string(), expires: z.number(), rights: z.array(z.string()) })

export const meshCommands: readonly Command[] = [
  {
    words: ['up'], args: '', count: [0, 0], what: 'start this host\'s peer: makes a network, or enters one by an invite',
    options: [
      { name: 'listen', value: 'MULTIADDR', many: true, what: 'where to listen (default /ip4/0.0.0.0/tcp/0)' },
      { name: 'http', value: 'HOST:PORT', what: 'the HTTP door (default 127.0.0.1:0; anything but loopback needs the token)' },
      { name: 'grpc', value: 'HOST:PORT', what: 'the door for AIOS\'s gRPC clients (default 127.0.0.1:0; anything but loopback needs the token)' },
      { name: 'oci', value: 'HOST:PORT', what: 'the door for container tools: skopeo, podman, docker (default 127.0.0.1:0; beyond loopback they log in with the token)' },
      { name: 'join', value: 'INVITE', what: 'enter the network of this invite; @FILE or - (standard input) keeps it out of lists of processes' },
      { name: 'label', value: 'K=V', many: true, what: 'a label others can place by, such as region=eu' },
      { name: 'name', value: 'NAME', what: 'name of the network, when this makes one' },
      { name: 'no-mdns', what: 'do not look for peers on the local network' },
      { name: 'upnp', what: 'ask the router to forward a port' },
      { name: 'behind-nat', what: 'nobody can dial this host: let a member that can be dialled carry its connections' },
      { name: 'no-relay', what: 'do not carry connections of members behind a NAT' },
      { name: 'isolation', value: 'LEVEL', what: 'L1 (fence, default) or L0 (none: only for components you wrote)' },
      { name: 'otlp', value: 'URL', what: 'send traces to this OpenTelemetry collector (default: what OTEL_EXPORTER_OTLP_ENDPOINT says)' },
      { name: 'containers', value: 'WHAT', what: 'what container components may have here, by commas: mesh (images pushed to the mesh, default), local (the engine\'s own), pull (from other registries), network; or none' },
      { name: 'external', value: 'URL', many: true, what: 'a server that external components and side-cars may have this host call, such as http://127.0.0.1:8000; * is any (default none)' },
      { name: 'detach', what: 'go on in the background once it is ready (end it with `aios down`)' },
    ],
    async run(context) {
      const said = text(context, 'join')
      const join = said === undefined ? undefined : await inviteText(said)
      if (flag(context, 'detach')) {
        const { detach } = await import('./detach.ts')
        const ready = await detach(context.dataDir, join)
        return context.out.result(ready, () => `peer ${ready.peer} is up: ${ready.http}`)
      }
      // The daemon's code is loaded only here, so that every other command starts fast.
      const { up } = await import('../daemon.ts')
      const labels: Record<string, string> = {}
      for (const label of list(context, 'label')) {
        const at = label.indexOf('=')
        if (at < 1) throw new UsageError(`--label takes K=V, not ${label}`)
        labels[label.slice(0, at)] = label.slice(at + 1)
      }
      const isolation = text(context, 'isolation') ?? process.env['AIOS_ISOLATION'] ?? 'L1'
      if (isolation !== 'L0' && isolation !== 'L1') throw new UsageError(`--isolation takes L0 or L1, not ${isolation}`)
      const asked = list(context, 'listen')
      const listen = [...(asked.length > 0 ? asked : ['/ip4/0.0.0.0/tcp/0']), ...(flag(context, 'behind-nat') ? ['/p2p-circuit'] : [])]
      const daemon = await up({
        dataDir: context.dataDir, listen, http: text(context, 'http') ?? '127.0.0.1:0', grpc: text(context, 'grpc') ?? '127.0.0.1:0', oci: text(context, 'oci') ?? '127.0.0.1:0', join, labels,
        networkName: text(context, 'name') ?? 'mesh', mdns: !flag(context, 'no-mdns'), upnp: flag(context, 'upnp'), relay: !flag(context, 'no-relay'), isolation, containers: text(context, 'containers') ?? 'mesh', external: list(context, 'external'), json: context.out.json, otlp: text(context, 'otlp'),
      })
      context.out.line({ ready: true, peer: daemon.peer, network: daemon.network, http: daemon.http, grpc: daemon.grpc, oci: daemon.oci, addresses: daemon.addresses, joined: daemon.joined, readyMs: daemon.readyMs }, () => [
        `peer      ${daemon.peer}`,
        `network   ${daemon.networkName} (${daemon.network})${daemon.joined ? ', joined' : ''}`,
        ...daemon.addresses.map((address, at) => `${at === 0 ? 'listens   ' : '          '}${address}`),
        `http      ${daemon.http}`,
        `grpc      ${daemon.grpc}`,
        `oci       ${daemon.oci}`,
        '',
        `Ready after ${(daemon.readyMs / 1_000).toFixed(1)} s. To bring in another host, run here:  aios invite --data ${context.dataDir}`,
        'and there:                                     aios up --join <what it printed>',
      ].join('\n'))
      await daemon.until(context.signal)
      context.out.note('stopped')
      // What could not be closed, on a full disk for one, keeps no process.
      setTimeout(() => process.exit(), LAST_MS).unref()
    },
  },
  {
    words: ['down'], args: '', count: [0, 0], what: 'stop the peer of this folder',
    async run(context) {
      const { down } = await import('./detach.ts')
      await down(context.dataDir)
      context.out.result({ stopped: true }, () => 'stopped')
    },
  },
  {
    words: ['invite'], args: '', count: [0, 0], what: 'print an invite for another host (keep it secret)',
    options: [
      { name: 'hours', value: 'N', what: 'how long it may be used (default 24)' },
      { name: 'right', value: 'RIGHT', many: true, what: `what the new peer may do: ${right.options.join(', ')} (default: all this peer may)` },
    ],
    async run(context) {
      const hours = Number(text(context, 'hours') ?? '24')
      if (!Number.isFinite(hours) || hours <= 0) throw new UsageError('--hours takes a positive number')
      const rights = list(context, 'right')
      const unknown = rights.find(name => !right.safeParse(name).success)
      if (unknown !== undefined) throw new UsageError(`--right takes ${right.options.join(', ')}, not ${unknown}`)
      const body = inviteBody.parse(await (await context.daemon()).send('POST', '/mesh/invite', { validMs: Math.round(hours * 3_600_000), ...(rights.length > 0 ? { rights: [...rights] } : {}) }))
      context.out.result(body, () => body.invite)
    },
  },
  {
    words: ['status'], args: '', count: [0, 0], what: 'what this peer is and does',
    async run(context) {
      const status = statusBody.parse(await (await context.daemon()).get('/mesh/status'))
      context.out.result(status, () => [
        `peer       ${status.peer}`,
        `network    ${status.network.name} (${status.network.id})`,
        `owner      ${status.network.owner === status.peer ? 'this peer' : status.network.owner}`,
        `rights     ${status.rights.join(', ')}`,
        `peers      ${status.live} live, ${status.peers} connected`,
        `blocks     ${status.blocks} in the network, ${status.instances} instances here`,
        `runs       ${status.runs}`,
        ...(status.content === undefined ? [] : [`disk       ${(status.content.freedBytes / 1_048_576).toFixed(1)} MiB given back, ${status.content.letGo} files to go`]),
        `http       ${status.http}`,
        `up         ${(status.uptimeMs / 1_000).toFixed(0)} s, ${status.rssMb} MiB`,
      ].join('\n'))
    },
  },
  {
    words: ['peers'], args: '', count: [0, 0], what: 'who is in the mesh, and what each has',
    async run(context) {
      const rows = z.array(peerRow).parse(await (await context.daemon()).get('/mesh/peers'))
      context.out.result(rows, () => peersTable(rows))
    },
  },
  {
    words: ['top'], args: '', count: [0, 0], what: 'load of every peer and instance',
    options: [{ name: 'follow', what: 'refresh every second until interrupted' }],
    async run(context) {
      const daemon = await context.daemon()
      const show = async (): Promise<void> => {
        const rows = z.array(peerRow).parse(await daemon.get('/mesh/peers'))
        context.out.line(rows, () => top(rows))
      }
      await show()
      while (flag(context, 'follow') && !context.signal.aborted) {
        await pause(1_000, context)
        if (context.signal.aborted) break
        if (!context.out.json) process.stdout.write('\x1b[2J\x1b[H')
        await show()
      }
    },
  },
  {
    words: ['doctor'], args: '', count: [0, 0], what: 'what this host can run, and why not the rest',
    async run(context) {
      const { examine } = await import('../doctor.ts')
      const body = doctorBody.parse({ checks: await examine(context.dataDir) })
      context.out.result(body, () => body.checks.map(({ what, ok, because }) => `${ok ? 'ok  ' : 'no  '} ${what}: ${because}`).join('\n'))
    },
  },
]

function peersTable(rows: readonly z.infer<typeof peerRow>[]): string {
  return table(['PEER', 'STATE', 'RTT', 'CORES', 'MEMORY FREE', 'GPUS', 'RUNTIMES', 'LABELS'], rows.map(row => [
    row.peer + (row.self ? ' (this)' : ''),
    row.state,
    row.rttMs === null ? '' : `${row.rttMs.toFixed(1)} ms`,
    row.ad === null ? '?' : (row.ad.total.cpuMilli / 1_000).toFixed(0),
    row.ad === null ? '?' : bytes(row.ad.free.memoryMb * 1_048_576),
    row.ad === null ? '?' : row.ad.total.gpus.length === 0 ? '-' : row.ad.total.gpus.map(({ name }) => name).join(', '),
    row.ad === null ? '?' : row.ad.runtimes.map(({ name, providers }) => `${name}(${providers.join('+')})`).join(' '),
    row.ad === null ? '' : Object.entries(row.ad.labels).map(([key, value]) => `${key}=${value}`).join(' '),
  ]))
}

function top(rows: readonly z.infer<typeof peerRow>[]): string {
  const peers = table(['PEER', 'STATE', 'CPU', 'MEMORY FREE', 'INSTANCES'], rows.map(row => [
    shortId(row.peer), row.state, row.ad === null ? '?' : `${(row.ad.cpuLoad * 100).toFixed(0)} %`,
    row.ad === null ? '?' : `${bytes(row.ad.free.memoryMb * 1_048_576)} of ${bytes(row.ad.total.memoryMb * 1_048_576)}`, row.ad === null ? '?' : row.ad.instances.length,
  ]))
  const instances = rows.flatMap(row => (row.ad?.instances ?? []).map(instance => [instance.block, instance.instance, shortId(row.peer), instance.state, instance.inFlight, instance.queued, `${instance.latencyMs.toFixed(1)} ms`, instance.epoch]))
  return `${peers}\n\n${table(['BLOCK', 'INSTANCE', 'HOST', 'STATE', 'RUNNING', 'QUEUED', 'LATENCY', 'EPOCH'], instances)}`
}

async function pause(ms: number, context: Context): Promise<void> {
  await new Promise<void>(resolve => {
    const timer = setTimeout(resolve, ms)
    context.signal.addEventListener('abort', () => {
      clearTimeout(timer)
      resolve()
    }, { once: true })
  })
}
