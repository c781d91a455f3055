/**
 * Runs as a process of its own: fences itself in (Landlock, seccomp, limits, no capabilities) and becomes the command it
 * was given. Needs no privilege and no package of the host. Exit code 96: the fence could not be built, reason on stderr.
 */
import { closeSync, constants, openSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { FENCE_FAILED, type FenceOrder } from './fence.ts'
import { seccompFilter } from './fence-filter.ts'

type Call = (...values: readonly (number | bigint | Uint8Array | null)[]) => number | bigint
type Koffi = {
  load(path: string): { func(definition: string): Call }
  errno(): number
  address(buffer: Uint8Array): bigint
}

const SYS = { landlockCreate: 444, landlockAddRule: 445, landlockRestrict: 446 }
const RULESET_VERSION = 1
const RULE_PATH_BENEATH = 1
const O_PATH = 0o10000000
const RIGHT = { execute: 1n << 0n, writeFile: 1n << 1n, readFile: 1n << 2n, readDir: 1n << 3n, makeChar: 1n << 6n, makeSock: 1n << 9n, makeBlock: 1n << 11n, truncate: 1n << 14n, ioctlDev: 1n << 15n }
const OF_FILES = RIGHT.execute | RIGHT.writeFile | RIGHT.readFile | RIGHT.truncate | RIGHT.ioctlDev
/** How many file rights each version of Landlock knows. */
const RIGHTS_BY_ABI = [0, 13, 14, 15, 15, 16]
const RLIMIT = { cpu: 0, fsize: 1, data: 2, core: 4, nproc: 6, nofile: 7 }
const PR = { pdeathsig: 1, seccomp: 22, noNewPrivileges: 38 }
const F_SETFD = 2
const SIGKILL = 9

function main(): void {
  const order = JSON.parse(process.argv[2] ?? '{}') as FenceOrder
  const koffi = createRequire(import.meta.url)('koffi') as Koffi
  const libc = loadLibc(koffi)
  const abi = Number(libc.func('long syscall(long n, void* a, size_t b, uint32_t f)')(SYS.landlockCreate, null, 0, RULESET_VERSION))
  if (abi < 1) throw new Error(`this kernel has no Landlock (Linux 5.13 or newer, with landlock in its lsm= list)`)
  if (process.arch !== 'x64' && process.arch !== 'arm64') throw new Error(`no system call table for ${process.arch}`)
  if (order.check === true) {
    process.stdout.write(JSON.stringify({ landlock: abi }))
    return
  }
  const prctl = libc.func('int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)')
  prctl(PR.pdeathsig, SIGKILL, 0, 0, 0)
  // Should the host run out of memory, the kernel takes an instance before the daemon.
  attempt(() => writeFileSync('/proc/self/oom_score_adj', '1000'))
  limit(libc, order)
  expect(koffi, 'PR_SET_NO_NEW_PRIVS', prctl(PR.noNewPrivileges, 1, 0, 0, 0))
  confineFiles(koffi, libc, abi, order)
  dropCapabilities(koffi, libc)
  const fcntl = libc.func('int fcntl(int fd, int command, int value)')
  for (const fd of order.keep) expect(koffi, `keeping descriptor ${fd}`, fcntl(fd, F_SETFD, 0))
  filterCalls(koffi, libc, seccompFilter(process.arch, process.pid, { gpus: order.gpus }))
  const [command, ...rest] = order.command
  process.execve!(command!, [command!, ...rest], order.env)
}

function loadLibc(koffi: Koffi): ReturnType<Koffi['load']> {
  try {
    return koffi.load('libc.so.6')
  } catch {
    // musl
    return koffi.load('libc.so')
  }
}

/** Data is what V8 and native libraries allocate: the address space itself cannot be limited under V8. */
function limit(libc: ReturnType<Koffi['load']>, { limits }: FenceOrder): void {
  const setrlimit = libc.func('int setrlimit(int resource, void* limit)')
  const set = (resource: number, value: number) => {
    const pair = new BigUint64Array([BigInt(Math.floor(value)), BigInt(Math.floor(value))])
    setrlimit(resource, new Uint8Array(pair.buffer))
  }
  set(RLIMIT.core, 0)
  set(RLIMIT.nofile, limits.files)
  set(RLIMIT.fsize, limits.fileBytes)
  set(RLIMIT.nproc, limits.threads)
  set(RLIMIT.data, limits.dataBytes)
  if (limits.cpuSeconds > 0) set(RLIMIT.cpu, limits.cpuSeconds)
}

function confineFiles(koffi: Koffi, libc: ReturnType<Koffi['load']>, abi: number, order: FenceOrder): void {
  const all = (1n << BigInt(RIGHTS_BY_ABI[Math.min(abi, RIGHTS_BY_ABI.length - 1)]!)) - 1n
  // Handled: every file right, then (ABI 4) TCP bind and connect, then (ABI 6) abstract sockets and signals to outsiders.
  const ruleset = new BigUint64Array([all, abi >= 4 ? 3n : 0n, abi >= 6 ? 3n : 0n])
  const create = libc.func('long syscall(long n, void* a, size_t b, uint32_t f)')
  const fd = Number(expect(koffi, 'landlock_create_ruleset', create(SYS.landlockCreate, new Uint8Array(ruleset.buffer), abi >= 6 ? 24 : abi >= 4 ? 16 : 8, 0)))
  const addRule = libc.func('long syscall(long n, int fd, int type, void* attr, uint32_t f)')
  const read = RIGHT.readFile | RIGHT.readDir
  const write = all & ~(RIGHT.execute | RIGHT.makeChar | RIGHT.makeBlock | RIGHT.makeSock | RIGHT.ioctlDev)
  const rules: readonly (readonly [readonly string[], bigint])[] = [[order.read, read], [order.execute, read | RIGHT.execute], [order.write, write], [order.devices, read | RIGHT.writeFile | RIGHT.ioctlDev]]
  for (const [paths, rights] of rules) {
    for (const path of paths) {
      const handle = attempt(() => openSync(path, constants.O_RDONLY | O_PATH))
      // Hosts differ; what is not there needs no rule.
      if (handle === undefined) continue
      const attribute = new Uint8Array(12)
      const view = new DataView(attribute.buffer)
      view.setBigUint64(0, rights & all & (statSync(path).isDirectory() ? all : OF_FILES), true)
      view.setInt32(8, handle, true)
      expect(koffi, `landlock rule for ${path}`, addRule(SYS.landlockAddRule, fd, RULE_PATH_BENEATH, attribute, 0))
      closeSync(handle)
    }
  }
  const restrict = libc.func('long syscall(long n, int fd, uint32_t f)')
  expect(koffi, 'landlock_restrict_self', restrict(SYS.landlockRestrict, fd, 0))
  closeSync(fd)
}

/** A daemon run by root must not lend root's powers. */
function dropCapabilities(koffi: Koffi, libc: ReturnType<Koffi['load']>): void {
  const header = new Uint8Array(new Uint32Array([0x2008_0522, 0]).buffer)
  expect(koffi, 'capset', libc.func('int capset(void* header, void* data)')(header, new Uint8Array(24)))
}

function filterCalls(koffi: Koffi, libc: ReturnType<Koffi['load']>, filter: Uint8Array): void {
  const program = new Uint8Array(16)
  const view = new DataView(program.buffer)
  view.setUint16(0, filter.byteLength / 8, true)
  view.setBigUint64(8, koffi.address(filter), true)
  expect(koffi, 'seccomp', libc.func('int prctl(int option, unsigned long a, void* b, unsigned long c, unsigned long d)')(PR.seccomp, 2, program, 0, 0))
}

function expect(koffi: Koffi, what: string, result: number | bigint): number | bigint {
  if (result < 0) throw new Error(`${what} failed with errno ${koffi.errno()}`)
  return result
}

function attempt<Value>(run: () => Value): Value | undefined {
  try {
    return run()
  } catch {
    return undefined
  }
}

try {
  main()
} catch (error) {
  process.stderr.write(`fence: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exit(FENCE_FAILED)
}
