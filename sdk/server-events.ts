/** The data of server-sent events as they come, without `[DONE]`. */
export async function * serverEvents(body: AsyncIterable<Uint8Array>): AsyncGenerator<unknown> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const bytes of body) {
    rest += decoder.decode(bytes, { stream: true })
    const events = rest.split('\n\n')
    rest = events.pop() ?? ''
    for (const event of events) {
      const data = event.split('\n').find(line => line.startsWith('data: '))?.slice(6)
      if (data !== undefined && data !== '[DONE]') yield JSON.parse(data)
    }
  }
}
