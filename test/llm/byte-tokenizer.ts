import type { TextFiles } from '../../src/llm/text/tokenizer-files.ts'

/** GPT-2's stand-in for each byte. */
const STAND_INS: readonly string[] = (() => {
  let extra = 0x100
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae ? byte : extra++))
})()

const standIn = (text: string): string => [...new TextEncoder().encode(text)].map(byte => STAND_INS[byte]).join('')

export const CHATML = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

/**
 * The files of a byte-level BPE tokenizer: a token a byte, one for each of `words` (made by merging from the left), then the
 * markers of ChatML, of which `<|im_end|>` ends an answer.
 */
export function byteTokenizer(words: readonly string[] = [], template: string = CHATML): TextFiles {
  const vocab: Record<string, number> = {}
  for (const sign of STAND_INS) vocab[sign] = Object.keys(vocab).length
  const merges: (readonly [string, string])[] = []
  for (const word of words) {
    const signs = [...standIn(word)]
    for (let at = 1; at < signs.length; at += 1) {
      const left = signs.slice(0, at).join('')
      if (vocab[left + signs[at]] !== undefined) continue
      vocab[left + signs[at]] = Object.keys(vocab).length
      merges.push([left, signs[at]!])
    }
  }
  const first = Object.keys(vocab).length
  const added = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'].map((content, at) => ({ id: first + at, content, special: true, single_word: false, lstrip: false, rstrip: false, normalized: false }))
  return {
    'tokenizer.json': {
      version: '1.0', added_tokens: added, normalizer: null, pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true }, post_processor: null,
      decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: { type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false, vocab, merges },
    },
    'tokenizer_config.json': { bos_token: '<|endoftext|>', eos_token: '<|im_end|>', chat_template: template },
    'generation_config.json': { eos_token_id: [first + 2, first] },
  }
}

/** The files of a SentencePiece-like tokenizer with a token for each byte that has none of its own (Llama 2's kind). */
export function fallbackTokenizer(words: readonly string[]): TextFiles {
  const vocab: Record<string, number> = { '<unk>': 0, '<s>': 1, '</s>': 2 }
  for (let byte = 0; byte < 256; byte += 1) vocab[`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`] = Object.keys(vocab).length
  const merges: (readonly [string, string])[] = []
  for (const word of words) {
    const signs = [...word]
    signs.forEach(sign => (vocab[sign] ??= Object.keys(vocab).length))
    for (let at = 1; at < signs.length; at += 1) {
      const left = signs.slice(0, at).join('')
      if (vocab[left + signs[at]] !== undefined) continue
      vocab[left + signs[at]] = Object.keys(vocab).length
      merges.push([left, signs[at]!])
    }
  }
  return {
    'tokenizer.json': {
      version: '1.0', added_tokens: ['<unk>', '<s>', '</s>'].map((content, id) => ({ id, content, special: true, single_word: false, lstrip: false, rstrip: false, normalized: false })),
      normalizer: { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, { type: 'Replace', pattern: { String: ' ' }, content: '▁' }] }, pre_tokenizer: null,
      post_processor: { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }], pair: [], special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } } },
      decoder: { type: 'Sequence', decoders: [{ type: 'Replace', pattern: { String: '▁' }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }, { type: 'Strip', content: ' ', start: 1, stop: 0 }] },
      model: { type: 'BPE', dropout: null, unk_token: '<unk>', continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: true, byte_fallback: true, vocab, merges },
    },
    'tokenizer_config.json': { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' },
  }
}
