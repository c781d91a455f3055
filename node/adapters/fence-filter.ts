/**
 * The system calls a fenced instance may not make, as a classic BPF program for seccomp. Landlock confines files; this
 * closes what Landlock does not see: sockets, other processes, changes of mode and owner, new kernel interfaces.
 */
export type Architecture = 'x64' | 'arm64'

const AUDIT: Readonly<Record<Architecture, number>> = { x64: 0xc000_003e, arm64: 0xc000_00b7 }

/** Refused with EPERM. Numbers from the kernel's unistd tables: x86-64, then arm64; null where one lacks the call. */
const REFUSED: Readonly<Record<string, readonly [number | null, number | null]>> = {
  socket: [41, 198], socketpair: [53, 199], connect: [42, 203], bind: [49, 200], listen: [50, 201], accept: [43, 202], accept4: [288, 242], sendmsg: [46, 211],
  fork: [57, null], vfork: [58, null], ptrace: [101, 117], process_vm_readv: [310, 270], process_vm_writev: [311, 271], process_madvise: [440, 440],
  process_mrelease: [448, 448], kcmp: [312, 272], pidfd_open: [434, 434], pidfd_getfd: [438, 438], pidfd_send_signal: [424, 424], tkill: [200, 130],
  setpriority: [141, 140], sched_setparam: [142, 118], sched_setscheduler: [144, 119], sched_setaffinity: [203, 122], sched_setattr: [314, 274], ioprio_set: [251, 30],
  migrate_pages: [256, 238], move_pages: [279, 239], unshare: [272, 97], setns: [308, 268], chroot: [161, 51], pivot_root: [155, 41], mount: [165, 40], umount2: [166, 39],
  open_tree: [428, 428], move_mount: [429, 429], fsopen: [430, 430], fsconfig: [431, 431], fsmount: [432, 432], fspick: [433, 433], mount_setattr: [442, 442],
  chmod: [90, null], fchmod: [91, 52], fchmodat: [268, 53], chown: [92, null], lchown: [94, null], fchown: [93, 55], fchownat: [260, 54],
  utime: [132, null], utimes: [235, null], futimesat: [261, null], utimensat: [280, 88], setxattr: [188, 5], lsetxattr: [189, 6], fsetxattr: [190, 7],
  removexattr: [197, 14], lremovexattr: [198, 15], fremovexattr: [199, 16], name_to_handle_at: [303, 264], open_by_handle_at: [304, 265],
  inotify_add_watch: [254, 27], fanotify_init: [300, 262], shmget: [29, 194], shmat: [30, 196], semget: [64, 190], msgget: [68, 186], mq_open: [240, 180],
  memfd_create: [319, 279], memfd_secret: [447, 447], userfaultfd: [323, 282], bpf: [321, 280], perf_event_open: [298, 241],
  io_uring_setup: [425, 425], io_uring_enter: [426, 426], io_uring_register: [427, 427], add_key: [248, 217], request_key: [249, 218], keyctl: [250, 219],
  init_module: [175, 105], finit_module: [313, 273], delete_module: [176, 106], kexec_load: [246, 104], kexec_file_load: [320, 294], reboot: [169, 142],
  swapon: [167, 224], swapoff: [168, 225], quotactl: [179, 60], quotactl_fd: [443, 443], acct: [163, 89], syslog: [103, 116], sethostname: [170, 161],
  setdomainname: [171, 162], settimeofday: [164, 170], clock_settime: [227, 112], adjtimex: [159, 171], clock_adjtime: [305, 266], personality: [135, 92],
  vhangup: [153, 58], iopl: [172, null], ioperm: [173, null], modify_ldt: [154, null],
}
/** CUDA's driver shares memory with itself through these. */
const FOR_GPUS = new Set(['memfd_create', 'sched_setaffinity'])
/** Allowed when the first argument is the caller itself (or 0, where 0 means that). */
const ON_ITSELF: Readonly<Record<string, readonly [number, number]>> = { kill: [62, 129], tgkill: [234, 131], rt_sigqueueinfo: [129, 138], rt_tgsigqueueinfo: [297, 240] }
const PRLIMIT: readonly [number, number] = [302, 261]
const CLONE: readonly [number, number] = [56, 220]
const CLONE3 = 435
/** Calls from here on are newer than this table: "no such call" makes every libc fall back. */
const FIRST_UNKNOWN = 450

const EPERM = 1
const ENOSYS = 38
const CLONE_THREAD = 0x1_0000
const LOAD = 0x20
const EQUAL = 0x15
const AT_LEAST = 0x35
const ANY_BIT = 0x45
const RETURN = 0x06
const KILL = 0x8000_0000
const ALLOW = 0x7fff_0000
const errno = (code: number): number => 0x0005_0000 | code
const ARGUMENT = 16

type Instruction = readonly [code: number, whenTrue: number, whenFalse: number, value: number]

/** The filter for a process `pid`, eight bytes an instruction. */
export function seccompFilter(architecture: Architecture, pid: number, options: { readonly gpus: boolean }): Uint8Array {
  const column = architecture === 'x64' ? 0 : 1
  const program: Instruction[] = [
    [LOAD, 0, 0, 4], [EQUAL, 1, 0, AUDIT[architecture]], [RETURN, 0, 0, KILL],
    [LOAD, 0, 0, 0],
  ]
  // x32 would give every call a second number.
  if (architecture === 'x64') program.push([AT_LEAST, 0, 1, 0x4000_0000], [RETURN, 0, 0, KILL])
  program.push([AT_LEAST, 0, 1, FIRST_UNKNOWN], [RETURN, 0, 0, errno(ENOSYS)])
  program.push([EQUAL, 0, 1, CLONE3], [RETURN, 0, 0, errno(ENOSYS)])
  program.push([EQUAL, 0, 4, CLONE[column]!], [LOAD, 0, 0, ARGUMENT], [ANY_BIT, 1, 0, CLONE_THREAD], [RETURN, 0, 0, errno(EPERM)], [RETURN, 0, 0, ALLOW])
  for (const numbers of Object.values(ON_ITSELF)) {
    program.push([EQUAL, 0, 4, numbers[column]!], [LOAD, 0, 0, ARGUMENT], [EQUAL, 1, 0, pid], [RETURN, 0, 0, errno(EPERM)], [RETURN, 0, 0, ALLOW])
  }
  program.push([EQUAL, 0, 5, PRLIMIT[column]!], [LOAD, 0, 0, ARGUMENT], [EQUAL, 2, 0, 0], [EQUAL, 1, 0, pid], [RETURN, 0, 0, errno(EPERM)], [RETURN, 0, 0, ALLOW])
  for (const [name, numbers] of Object.entries(REFUSED)) {
    const number = numbers[column]
    if (number === null || number === undefined || (options.gpus && FOR_GPUS.has(name))) continue
    program.push([EQUAL, 0, 1, number], [RETURN, 0, 0, errno(EPERM)])
  }
  program.push([RETURN, 0, 0, ALLOW])
  return assemble(program)
}

/** The verdict a program gives for one call: the same rules read without a kernel, for tests. */
export function judge(filter: Uint8Array, architecture: Architecture, call: number, firstArgument = 0): 'allow' | 'kill' | number {
  const view = new DataView(filter.buffer, filter.byteOffset, filter.byteLength)
  const data: Readonly<Record<number, number>> = { 0: call, 4: AUDIT[architecture], [ARGUMENT]: firstArgument }
  let accumulator = 0
  for (let at = 0; at < filter.byteLength / 8; at++) {
    const value = view.getUint32(at * 8 + 4, true)
    const code = view.getUint16(at * 8, true)
    if (code === LOAD) accumulator = data[value] ?? 0
    else if (code === RETURN) return value === ALLOW ? 'allow' : value === KILL ? 'kill' : value & 0xffff
    else {
      const met = code === EQUAL ? accumulator === value : code === AT_LEAST ? accumulator >= value : (accumulator & value) !== 0
      at += view.getUint8(at * 8 + (met ? 2 : 3))
    }
  }
  return 'kill'
}

function assemble(program: readonly Instruction[]): Uint8Array {
  const out = new Uint8Array(program.length * 8)
  const view = new DataView(out.buffer)
  for (const [index, [code, whenTrue, whenFalse, value]] of program.entries()) {
    view.setUint16(index * 8, code, true)
    view.setUint8(index * 8 + 2, whenTrue)
    view.setUint8(index * 8 + 3, whenFalse)
    view.setUint32(index * 8 + 4, value >>> 0, true)
  }
  return out
}
