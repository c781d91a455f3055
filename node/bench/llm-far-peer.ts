/** A daemon whose messages leave late, as if its peers were far: `llm-far-peer.ts DIR DELAY_MS PLACE [INVITE]`. */
import { up } from '../daemon.ts'
import { farNetwork } from './far-network.ts'

const [dataDir = '', delay = '0', place = '', join] = process.argv.slice(2)
const daemon = await up({ dataDir, listen: ['/ip4/127.0.0.1/tcp/0'], http: '127.0.0.1:0', grpc: '127.0.0.1:0', oci: '127.0.0.1:0', join, labels: { place }, networkName: 'far', mdns: false, upnp: false, relay: false, isolation: 'L1', containers: 'none', external: [], json: true }, network => farNetwork(network, Number(delay)))
process.stdout.write(`${JSON.stringify({ ready: true, http: daemon.http, peer: daemon.peer })}\n`)
const stop = new AbortController()
process.once('SIGTERM', () => stop.abort())
await daemon.until(stop.signal)
process.exit(0)
