import { Console } from 'node:console'
import { readdirSync } from 'node:fs'
import { join, relative, sep } from 'node:path'
import { Duplex } from 'node:stream'
import type { InstanceConfig } from './frames.ts'

/** Where an image made on our base image has its block. */
const FOLDER = '/block'

/** Frames over standard input and output, as in a container. Whatever else would be printed there goes to the log. */
export function stdioPipe(): Duplex {
  const write = process.stdout.write.bind(process.stdout)
  const frames = new Duplex({
    read: () => undefined,
    write: (chunk: Uint8Array, _, done) => void write(chunk, error => done(error ?? null)),
  })
  process.stdin.on('data', chunk => void frames.push(chunk))
  process.stdin.on('end', () => frames.destroy())
  process.stdin.on('error', () => frames.destroy())
  process.stdout.write = process.stderr.write.bind(process.stderr)
  globalThis.console = new Console(process.stderr, process.stderr)
  return frames
}

/** The block lies in the image, not in a bundle that the daemon laid out. */
export function inImage(config: InstanceConfig): InstanceConfig {
  const bundle = process.env['AIOS_BLOCK'] ?? FOLDER
  const files = readdirSync(bundle, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile()).map(entry => relative(bundle, join(entry.parentPath, entry.name)).split(sep).join('/')).filter(path => !path.split('/').includes('node_modules'))
  const onnx = files.find(path => path.endsWith('.onnx'))
  const code = files.some(path => /^(?:main|index|block)\.[cm]?[jt]s$/.test(path))
  return { ...config, bundle, files, runtime: onnx !== undefined && !code ? { name: 'onnx', model: onnx, format: 'onnx' } : { name: 'node' } }
}
