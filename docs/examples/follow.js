// Follows downloads, for any page (follow.html is one): a job is initiated once, and its events are streamed.
// The status is the truth and events only make it fast, so whatever breaks, the next status mends it.

const PATH = "/v1/download";
const ENDED = ["completed", "failed", "cancelled", "expired"];
const KINDS = ["queued", "running", "progress", "file", "completed", "failed", "cancelled", "resync"];
const STREAMS = 4; // at once; without HTTP/2 a browser has six connections to a host, and needs some to ask
const ATTEMPTS = 3; // of streams that tell nothing; after that only the status is asked for
const SILENCE = 45_000; // milliseconds; a proxy may hold events back, and only the status tells
let streams = 0;

/**
 * Download files. Resolves with the job at its end; its files have a `downloadUrl` if they can be had.
 *
 * The job is kept in sessionStorage until then: called with the same files again, also after a reload of the
 * page, this goes on with the same job. Rejects with an Error that has the `status` of the refusal, or when
 * *signal* is aborted, which ends the following and not the job.
 * onChange: gets the job as it stands: {jobId, status, progress, files: [{fileId, status, progress}]}
 * base: where the API is, if not where the page is: "https://api.example.com"
 */
export async function followDownload(fileIds, { onChange = () => {}, signal, base = "" } = {}) {
  const api = base + PATH;
  const kept = remembered().find((one) => `${one.fileIds}` === `${fileIds}`) ?? { fileIds, key: newKey() };
  try {
    if (!kept.jobId) {
      remember(kept); // before it is sent: if the answer is lost, the same key gets the same job
      const headers = { "Content-Type": "application/json", "Idempotency-Key": kept.key };
      const body = JSON.stringify({ file_ids: fileIds });
      const { jobId } = await ask(`${api}/initiate`, { method: "POST", headers, body, signal });
      remember(Object.assign(kept, { jobId }));
    }
    const job = await follow(api, kept.jobId, onChange, signal);
    const { files } = job.status === "completed" ? await ask(`${api}/${job.jobId}`, { signal }) : job;
    forget(kept);
    return { ...job, files: job.files.map((file, i) => ({ ...file, downloadUrl: files[i].downloadUrl })) };
  } catch (error) {
    if (error.status < 500) forget(kept); // refused, or no longer known
    throw error;
  }
}

/** Cancel a job; whoever follows it hears of that as of any other end. One that has ended stays as it is. */
export async function cancelDownload(jobId, { base = "" } = {}) {
  await ask(`${base}${PATH}/${jobId}`, { method: "DELETE" }, [409]);
}

/** The downloads of this tab whose end has not been seen: [{fileIds, ...}]. */
export const remembered = () => JSON.parse(sessionStorage.getItem("downloads") ?? "[]");
const forget = ({ key }) => keep(remembered().filter((one) => one.key !== key));
const remember = (kept) => keep([...remembered().filter((one) => one.key !== kept.key), kept]);
const keep = (all) => sessionStorage.setItem("downloads", JSON.stringify(all));
const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

async function follow(api, jobId, onChange, signal) {
  for (let failures = 0; ; ) {
    const job = await ask(`${api}/status/${jobId}`, { signal });
    onChange(job);
    signal?.throwIfAborted();
    if (ENDED.includes(job.status)) return job;
    const streamed = failures < ATTEMPTS && streams < STREAMS && "EventSource" in globalThis;
    const heard = streamed && (await stream(api, job, onChange, signal));
    if (streamed) failures = heard ? 0 : failures + 1;
    if (!heard) await pause(streamed ? 1 : job.retryAfter, signal);
  }
}

/** The events after those that *job* contains, until they end or cannot be had; whether there were any. */
async function stream(api, job, onChange, signal) {
  const source = new EventSource(`${api}/subscribe/${job.jobId}?lastEventId=${job.lastEventId}`);
  let [heard, errors, silence] = [false, 0, null];
  streams += 1;
  await new Promise((over) => {
    const listen = () => (clearTimeout(silence), (silence = setTimeout(over, SILENCE)));
    const hear = ({ type, data }) => {
      job = type === "resync" ? JSON.parse(data) : changed(job, JSON.parse(data));
      [heard, errors] = [true, 0];
      ENDED.includes(job.status) ? over() : (onChange(job), listen());
    };
    for (const kind of KINDS) source.addEventListener(kind, hear);
    // After an error it comes back by itself, with the id of the last event; unless it was refused.
    source.onerror = () => (source.readyState === EventSource.CLOSED || ++errors === ATTEMPTS) && over();
    signal?.addEventListener("abort", over, { once: true });
    listen();
  });
  clearTimeout(silence);
  source.close();
  streams -= 1;
  return heard;
}

function changed(job, { file, ...told }) {
  const files = job.files.map((one) => (one.fileId === file?.fileId ? { ...one, ...file } : one));
  return { ...job, ...told, files };
}

/** What a request is answered, which may be repeated, and is until the answer is yes or no. */
async function ask(url, init, also = []) {
  for (let wait = 1; ; wait = Math.min(2 * wait, 15)) {
    const answer = await fetch(url, init).catch(() => null); // no connection, or an answer without CORS
    const told = await answer?.json().catch(() => null); // cut off, or the page of a proxy
    const retryAfter = Number(answer?.headers.get("Retry-After")) || wait;
    if (told && (answer.ok || also.includes(answer.status))) return { ...told, retryAfter };
    if (answer && !answer.ok && answer.status !== 429 && answer.status <= 500)
      throw Object.assign(new Error(told?.detail ?? answer.statusText), { status: answer.status });
    await pause(retryAfter, init.signal);
  }
}

async function pause(seconds, signal) {
  signal?.throwIfAborted();
  await new Promise((over) => {
    setTimeout(over, seconds * (1000 + 500 * Math.random())); // not all come back at the same moment
    signal?.addEventListener("abort", over, { once: true });
  });
  signal?.throwIfAborted();
}
