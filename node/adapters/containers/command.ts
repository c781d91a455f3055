import type { Needs } from '../../../protocols/resources.ts'

/** What the runtime inside needs beside the block's own memory. */
const RUNTIME_MB = 160
const PIDS = 256
/** Nobody, on every distribution. */
const USER = '65534:65534'
const LEAST_TMP_MB = 16

export type ContainerOrder = {
  readonly engine: 'podman' | 'docker'
  readonly name: string
  readonly image: string
  readonly needs: Needs
  readonly gpus: readonly string[]
  /** `none`: no interface but its own loopback. A port: the engine's network, and that port of it on this host's loopback. */
  readonly network: 'none' | { readonly port: number }
  readonly labels: readonly string[]
  readonly env: Readonly<Record<string, string>>
}

/**
 * The command line that runs one instance's container, attached: nothing of the host mounted, root read-only, no capabilities,
 * no new privileges, an unprivileged user, bounds on memory, processor and processes, and no network unless it was granted.
 */
export function containerCommand({ engine, name, image, needs, gpus, network, labels, env }: ContainerOrder): readonly string[] {
  const memory = `${needs.memoryMb + RUNTIME_MB}m`
  return [
    'run', '--rm', '--interactive', '--pull', 'never', '--name', name, ...labels.flatMap(label => ['--label', label]),
    '--read-only', ...(engine === 'podman' ? ['--read-only-tmpfs=false'] : []), '--tmpfs', `/tmp:rw,nosuid,nodev,mode=1777,size=${Math.max(LEAST_TMP_MB, needs.diskMb)}m`,
    '--cap-drop', 'all', '--security-opt', 'no-new-privileges', '--user', USER, '--workdir', '/tmp',
    '--memory', memory, '--memory-swap', memory, ...(needs.cpuMilli > 0 ? ['--cpus', String(Math.max(0.01, needs.cpuMilli / 1_000))] : []), '--pids-limit', String(PIDS),
    // One that does not end by itself is ended: it was asked over its frames before.
    '--stop-timeout', '2',
    ...(network === 'none' ? ['--network', 'none'] : ['--publish', `127.0.0.1::${network.port}`]),
    ...gpuArguments(engine, gpus),
    ...Object.entries({ HOME: '/tmp', TMPDIR: '/tmp', ORT_DISABLE_TELEMETRY: '1', ...env }).flatMap(([key, value]) => ['--env', `${key}=${value}`]),
    image,
  ]
}

function gpuArguments(engine: ContainerOrder['engine'], gpus: readonly string[]): readonly string[] {
  if (gpus.length === 0) return []
  // Podman knows GPUs by the container device interface, docker by NVIDIA's own hook.
  return engine === 'podman' ? gpus.flatMap(gpu => ['--device', `nvidia.com/gpu=${gpu}`]) : ['--gpus', `"device=${gpus.join(',')}"`]
}
