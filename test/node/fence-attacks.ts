/**
 * What a hostile component tries. Each source answers `{ succeeded, how }`; the test expects that none did. `{{NAME}}`
 * stands for a value of the host: a secret file, the daemon's pid, a port and a Unix socket that listen.
 */
const attempt = (body: string): string => `
import fs from 'node:fs'
import net from 'node:net'
import dgram from 'node:dgram'
import child from 'node:child_process'
import path from 'node:path'
export default { async data() {
  try {
    const how = await (async () => { ${body} })()
    return { succeeded: how !== false, how: String(how) }
  } catch (error) { return { succeeded: false, how: String(error && error.message) } }
} }`

const connect = (target: string): string => `return await new Promise((resolve, reject) => { const socket = net.connect(${target}); socket.on('connect', () => resolve('connected')); socket.on('error', reject) })`

export const ATTACKS: Readonly<Record<string, string>> = {
  'read a secret of the daemon': attempt(`return fs.readFileSync('{{SECRET}}', 'utf8')`),
  'read /etc/passwd': attempt(`return fs.readFileSync('/etc/passwd', 'utf8').length`),
  'list the home folder': attempt(`return fs.readdirSync(process.platform === 'linux' ? '/root' : '/').join()`),
  'list the root folder': attempt(`return fs.readdirSync('/').join()`),
  'read a secret through a symbolic link': attempt(`fs.symlinkSync('{{SECRET}}', 'link'); return fs.readFileSync('link', 'utf8')`),
  'read a secret through a hard link': attempt(`fs.linkSync('{{SECRET}}', 'hard'); return fs.readFileSync('hard', 'utf8')`),
  'write outside its folder': attempt(`fs.writeFileSync('{{OUTSIDE}}', 'x'); return 'written'`),
  'overwrite a secret': attempt(`fs.truncateSync('{{SECRET}}', 0); return 'truncated'`),
  'change the mode of a secret': attempt(`fs.chmodSync('{{SECRET}}', 0o777); return 'changed'`),
  'change the times of a secret': attempt(`fs.utimesSync('{{SECRET}}', 1, 1); return 'changed'`),
  'change its own bundle': attempt(`fs.writeFileSync(path.join('..', 'bundle', 'main.mjs'), 'x'); return 'written'`),
  'write into shared memory': attempt(`fs.writeFileSync('/dev/shm/aios-attack', 'x'); return 'written'`),
  'write into /tmp': attempt(`fs.writeFileSync('/tmp/aios-attack', 'x'); return 'written'`),
  'read the daemon’s environment': attempt(`return fs.readFileSync('/proc/{{PID}}/environ', 'utf8').length`),
  'read the daemon’s command line': attempt(`return fs.readFileSync('/proc/{{PID}}/cmdline', 'utf8')`),
  'read the daemon’s memory': attempt(`return fs.openSync('/proc/{{PID}}/mem', 'r')`),
  'list processes': attempt(`return fs.readdirSync('/proc').length`),
  'kill the daemon': attempt(`process.kill({{PID}}, 'SIGKILL'); return 'killed'`),
  'probe the daemon with a signal': attempt(`process.kill({{PID}}, 0); return 'alive'`),
  'kill its whole process group': attempt(`process.kill(0, 'SIGUSR2'); return 'signalled'`),
  'kill everything': attempt(`process.kill(-1, 'SIGUSR2'); return 'signalled'`),
  'slow the daemon down': attempt(`(await import('node:os')).setPriority({{PID}}, 19); return 'niced'`),
  'connect to a port of this host': attempt(connect('{{PORT}}, "127.0.0.1"')),
  'connect to the outside': attempt(connect('80, "192.0.2.1"')),
  'connect to a Unix socket': attempt(connect('{ path: "{{SOCKET}}" }')),
  'connect to an abstract socket': attempt(connect('{ path: "\\0aios-attack" }')),
  'send a datagram': attempt(`const socket = dgram.createSocket('udp4'); return await new Promise((resolve, reject) => { socket.on('error', reject); socket.send('x', 53, '127.0.0.1', error => error ? reject(error) : resolve('sent')) })`),
  'listen on a port': attempt(`return await new Promise((resolve, reject) => { const server = net.createServer(); server.on('error', reject); server.listen(0, '127.0.0.1', () => resolve('listening')) })`),
  'ask a name server': attempt(`return JSON.stringify(await (await import('node:dns/promises')).lookup('example.org'))`),
  'fetch a page': attempt(`return (await fetch('http://127.0.0.1:{{PORT}}/')).status`),
  'run a shell': attempt(`return child.execSync('id', { encoding: 'utf8' })`),
  'run itself again': attempt(`return child.spawnSync(process.execPath, ['-e', '0']).status === 0 ? 'ran' : false`),
  'become another program': attempt(`process.execve('/bin/sh', ['sh', '-c', 'exit 7'], {}); return 'became'`),
  'start many processes': attempt(`let started = 0; for (let i = 0; i < 50; i++) { const one = child.spawn(process.execPath, ['-e', 'setTimeout(() => 0, 1e5)'], { stdio: 'ignore' }); one.on('error', () => 0); if (one.pid) started++ } return started === 0 ? false : started`),
  'open a database elsewhere': attempt(`const { DatabaseSync } = await import('node:sqlite'); new DatabaseSync('{{OUTSIDE}}').exec('create table t(x)'); return 'made'`),
  'write a heap snapshot elsewhere': attempt(`return (await import('node:v8')).writeHeapSnapshot('{{OUTSIDE}}')`),
  'open the inspector': attempt(`const inspector = await import('node:inspector'); inspector.open(0, '127.0.0.1'); return inspector.url() === undefined ? false : 'open'`),
  'see the daemon’s environment in its own': attempt(`const extra = Object.keys(process.env).filter(name => /TOKEN|SECRET|PATH$|USER|SSH/.test(name) && name !== 'LD_LIBRARY_PATH'); return extra.length === 0 ? false : extra.join()`),
  'raise its own limits': attempt(`return process.setuid ? (process.setuid(process.getuid() === 0 ? 1 : 0), 'changed user') : false`),
}

/** These end, or should end, the instance itself. The daemon and its neighbours must not notice. */
export const RAMPAGES: Readonly<Record<string, string>> = {
  'fill memory with buffers': `export default { data() { const held = []; for (;;) held.push(Buffer.alloc(16 << 20, 1)) } }`,
  'fill memory with objects': `export default { data() { const held = []; for (;;) held.push(new Array(1000).fill(held.length)) } }`,
  'fill memory with threads': `import { Worker } from 'node:worker_threads'
export default { async data() { for (let i = 0; i < 500; i++) { const worker = new Worker('setInterval(() => 0, 1000)', { eval: true }); worker.on('error', () => 0); await new Promise(resolve => setTimeout(resolve, 5)) } return new Promise(() => 0) } }`,
  'claim a giant frame': `import fs from 'node:fs'
export default { data() { fs.writeSync(3, Uint8Array.of(255, 255, 255, 255)); return new Promise(() => 0) } }`,
  'write garbage into the pipe': `import fs from 'node:fs'
export default { data() { for (;;) { try { fs.writeSync(3, new Uint8Array(65536).fill(7)) } catch {} } } }`,
  'answer without end or credit': `import fs from 'node:fs'
const frame = Buffer.from('1600000011000000a262696400646b696e64666f757470757400', 'hex')
export default { data() { for (;;) { try { fs.writeSync(3, frame) } catch {} } } }`,
  'exit': `export default { data() { process.exit(3) } }`,
  'abort': `export default { data() { process.abort() } }`,
  'throw where nobody catches': `export default { data() { setTimeout(() => { throw new Error('late') }, 1); return new Promise(() => 0) } }`,
}
