// Browsers start no worker from a file. On a page that was opened from the disk, the search's worker
// runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.srcdoc = "<!doctype html><title>search</title>"
      this.loaded = new Promise((done) => {
        frame.onload = () => {
          const inner = frame.contentWindow
          inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
          const script = inner.document.createElement("script")
          script.src = new URL(url, location)
          script.onload = () => done(inner)
          inner.document.body.append(script)
        }
      })
      document.body.append(frame)
    }

    async postMessage(data) {
      const inner = await this.loaded
      inner.dispatchEvent(new inner.MessageEvent("message", { data }))
    }

    terminate() {}
  }
}
