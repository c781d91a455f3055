import type { Json } from '../../protocols/ids.ts'

/**
 * A block gives embeddings when its component is of the type `embeddings`, or its initData declares them. Without code of its own an
 * ONNX model is then run with its tokenizer: texts in, vectors out.
 */
export function givesEmbeddings({ componentURI, initData }: { readonly componentURI: string; readonly initData: Readonly<Record<string, Json>> }): boolean {
  const declared = initData['embeddings']
  return declared === undefined ? componentURI.startsWith('embeddings.') : declared !== false
}
