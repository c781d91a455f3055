/** The part of @orbitdb/core 4 that the registry logs use; the package ships no types. */
declare module '@orbitdb/core' {
  import type { EventEmitter } from 'node:events'

  export interface LogEntry {
    readonly id: string
    readonly hash: string
    readonly payload: { readonly op: string; readonly key: string | null; readonly value: unknown }
    readonly next: readonly string[]
    readonly refs: readonly string[]
    readonly identity: string
  }

  export interface Log {
    heads(): Promise<LogEntry[]>
    get(hash: string): Promise<LogEntry | undefined>
    has(hash: string): Promise<boolean>
    joinEntry(entry: LogEntry): Promise<boolean>
  }

  export interface Database {
    readonly address: string
    readonly name: string
    readonly type: string
    readonly meta: unknown
    readonly events: EventEmitter
    readonly log: Log
    readonly sync: { add(entry: LogEntry): Promise<void>; start(): Promise<void>; stop(): Promise<void> }
    add(value: unknown): Promise<string>
    close(): Promise<void>
  }

  export interface Storage {
    put(key: string, value: unknown, signal?: AbortSignal): Promise<void>
    get(key: string, signal?: AbortSignal): Promise<unknown>
    close(): Promise<void>
  }

  export interface OpenOptions {
    type?: 'events' | 'documents'
    meta?: unknown
    sync?: boolean
    AccessController?: unknown
    headsStorage?: Storage
    entryStorage?: Storage
    indexStorage?: Storage
    referencesCount?: number
    signal?: AbortSignal
  }

  export interface OrbitDB {
    readonly identity: { readonly id: string; readonly hash: string }
    open(address: string, options?: OpenOptions): Promise<Database>
    stop(): Promise<void>
  }

  export function createOrbitDB(options: { ipfs: object; id?: string; directory?: string }): Promise<OrbitDB>
  export function IPFSAccessController(options?: { write?: string[] }): unknown
  export function MemoryStorage(): Promise<Storage>
  export function LRUStorage(options: { size: number }): Promise<Storage>
  export function IPFSBlockStorage(options: { ipfs: object; pin?: boolean; timeout?: number }): Promise<Storage>
  export function ComposedStorage(first: Storage, second: Storage): Promise<Storage>
  export function isValidAddress(address: string): boolean
}
