import type { GenerationRequest } from '../protocols/generation.ts'
import type { Answer, Answers } from '../src/llm/answer.ts'
import { hash32 } from './random.ts'
import { greatest } from './stage.ts'

/** Draws as a simulated client expects it: greedy, or by noise that is a function of seed, position and token. */
export function drawToken({ temperature, seed }: Pick<GenerationRequest['sampling'], 'temperature' | 'seed'>, logits: Float32Array, position: number): number {
  if (temperature === 0) return greatest(logits)
  const noise = hash32(`${seed} ${position}`, 0x51ed270b)
  return greatest(logits.map((logit, id) => logit + temperature * (hash32(`${id}`, noise) / 4_294_967_296)))
}

/** Text in which every token can be told from every other. */
export function textOf(token: number): string {
  return `t${token} `
}

export const simulatedAnswers: Answers = {
  async answer(_served, _facts, { sampling }): Promise<Answer> {
    return {
      greedy: sampling.temperature === 0,
      draw: (logits, position) => ({ token: drawToken(sampling, logits, position) }),
      tell: token => ({ text: textOf(token), stopped: false }),
      rest: () => '',
    }
  },
}
