// The load generator of the benchmarks: callers who time each answer, and one JSON document about them.
//
// A closed loop asks again when it has its answer; an open loop asks at random instants, whatever becomes of
// the earlier requests, and counts each latency from when the request was due. One thread and one epoll loop
// over raw sockets, because it shares a core with the upstream. It knows nothing of the server but its HTTP.
//
// A request has one of six ends: good (a 200 in time), refused (a 503 with Retry-After, in time), failed (any
// other status in time), late (whatever came after timeout + margin), unanswered (given up at timeout + grace,
// or no connection was free), or an error (the connection broke).
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand"
	"net"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// sysEpollPwait2 waits with the precision of nanoseconds; its number is the same on all architectures.
const sysEpollPwait2 = 441

// burst is how many requests that are due are sent before answers are looked at again.
const burst = 64

type state uint8

const (
	closed state = iota
	connecting
	idle
	busy
)

// conn is one connection, with the request that is under way on it.
type conn struct {
	state  state
	serial uint64 // of the request under way; 0 when that was given up before there was a connection
	target int
	due    int64 // nanoseconds since the start
	data   []byte
}

// moment is something that will have to be looked at: a request to give up, or a caller who begins to ask.
type moment struct {
	at     int64
	fd     int
	serial uint64
}

// queue is a line of moments that are in order of time already.
type queue struct {
	items []moment
	head  int
}

func (q *queue) push(m moment) { q.items = append(q.items, m) }
func (q *queue) empty() bool   { return q.head == len(q.items) }
func (q *queue) first() moment { return q.items[q.head] }
func (q *queue) pop() {
	if q.head++; q.head > 65536 && q.head*2 > len(q.items) {
		q.items = append(q.items[:0], q.items[q.head:]...)
		q.head = 0
	}
}

// phase is a part of an open loop: so many requests per second, until then.
type phase struct {
	rate  float64
	until int64
}

// second is what became of the requests that were due in one second.
type second struct {
	Sent       int `json:"sent"`
	Good       int `json:"good"`
	Failed     int `json:"failed"`
	Refused    int `json:"refused"`
	Late       int `json:"late"`
	Unanswered int `json:"unanswered"`
	Errors     int `json:"errors"`
}

// generator is the load, and what came of it. Times are nanoseconds since the start.
type generator struct {
	address    syscall.SockaddrInet4
	requests   [][]byte
	timeout    int64
	margin     int64
	grace      int64
	pause      int64
	limit      int
	closedLoop bool
	warmup     int64
	end        int64
	phases     []phase
	rng        *rand.Rand

	epoll    int
	conns    []conn
	free     []int
	open     int
	serial   uint64
	asked    int
	underWay int
	giveUps  queue
	begins   queue
	next     int64
	buffer   []byte
	began    time.Time

	series   []second
	lateOK   int
	unsent   int
	statuses map[int]int
	errors   map[string]int
	ok       []int32 // microseconds
	refusals []int32
	others   []int32
	behind   []int32
	answered int // warm-up and all
	opened   int
	stall    int64
}

func main() {
	address := flag.String("url", "", "of the server; several paths are asked for in turn: http://host:port/a,/b")
	callers := flag.Int("callers", 0, "closed loop: so many callers")
	rates := flag.String("rates", "", "open loop: requests per second, and for how long: 500:5s,9000:5s")
	duration := flag.Duration("duration", 5*time.Second, "closed loop: of the window")
	warmup := flag.Duration("warmup", 0, "before the window; nothing due in it is counted")
	ramp := flag.Duration("ramp", 500*time.Millisecond, "closed loop: callers begin over this time")
	pause := flag.Duration("pause", 100*time.Millisecond, "closed loop: of a caller who was refused")
	timeout := flag.Duration("timeout", 500*time.Millisecond, "within which an answer is wanted")
	margin := flag.Duration("margin", 10*time.Millisecond, "an answer is late after timeout and margin")
	grace := flag.Duration("grace", time.Second, "callers give up after timeout and grace")
	limit := flag.Int("connections", 8000, "open loop: at most so many at a time")
	seed := flag.Int64("seed", 1, "of the random numbers")
	flag.Parse()

	runtime.LockOSThread()
	debug.SetGCPercent(-1) // samples are all that is allocated
	debug.SetMemoryLimit(1 << 30)
	g := &generator{
		timeout: int64(*timeout), margin: int64(*margin), grace: int64(*grace), pause: int64(*pause),
		limit: *limit, warmup: int64(*warmup), end: int64(*warmup + *duration),
		rng: rand.New(rand.NewSource(*seed)), buffer: make([]byte, 65536), next: math.MaxInt64,
		statuses: map[int]int{}, errors: map[string]int{},
	}
	g.aim(*address)
	switch {
	case *callers > 0:
		g.limit, g.closedLoop = *callers, true
		for i := 0; i < *callers; i++ {
			g.begins.push(moment{at: int64(*ramp) * int64(i) / int64(*callers)})
		}
	case *rates != "":
		g.plan(*rates)
	default:
		die(fmt.Errorf("neither -callers nor -rates"))
	}
	g.series = make([]second, (g.end-g.warmup+int64(time.Second)-1)/int64(time.Second))
	g.run()
	if err := json.NewEncoder(os.Stdout).Encode(g.report()); err != nil {
		die(err)
	}
}

// aim makes the requests out of the address.
func (g *generator) aim(address string) {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Host == "" {
		die(fmt.Errorf("no such address: %q", address))
	}
	ip, err := net.ResolveTCPAddr("tcp4", parsed.Host)
	if err != nil {
		die(err)
	}
	g.address.Port = ip.Port
	copy(g.address.Addr[:], ip.IP.To4())
	_, paths, _ := strings.Cut(address, parsed.Host)
	for _, path := range strings.Split(paths, ",") {
		head := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, parsed.Host)
		g.requests = append(g.requests, []byte(head))
	}
}

// plan reads "500:5s,9000:5s".
func (g *generator) plan(text string) {
	g.end = 0
	for _, part := range strings.Split(text, ",") {
		rate, length, found := strings.Cut(part, ":")
		number, err := strconv.ParseFloat(rate, 64)
		took, err2 := time.ParseDuration(length)
		if !found || err != nil || err2 != nil || number <= 0 || took <= 0 {
			die(fmt.Errorf("rates: %q is not like 500:5s", part))
		}
		g.end += int64(took)
		g.phases = append(g.phases, phase{number, g.end})
	}
	g.next = 0
	g.arrive()
}

// arrive draws when the next request is due. A phase begins afresh: arrivals have no memory.
func (g *generator) arrive() {
	began := g.next
	for len(g.phases) > 0 {
		at := began + int64(g.rng.ExpFloat64()/g.phases[0].rate*1e9)
		if at < g.phases[0].until {
			g.next = at
			return
		}
		began = g.phases[0].until
		g.phases = g.phases[1:]
	}
	g.next = math.MaxInt64
}

func (g *generator) now() int64 { return int64(time.Since(g.began)) }

// run asks until the end, and waits until each request has come to one.
func (g *generator) run() {
	var err error
	if g.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		die(err)
	}
	events := make([]syscall.EpollEvent, 512)
	g.began = time.Now()
	awake := int64(0)
	for {
		now := g.now()
		if stalled := now - awake; stalled > g.stall {
			g.stall = stalled
		}
		g.begin(now)
		g.giveUp(now)
		if now >= g.end && g.underWay == 0 {
			return
		}
		n := g.wait(events, g.quiet(now))
		awake = g.now()
		for i := 0; i < n; i++ {
			g.meet(int(events[i].Fd), events[i].Events)
		}
	}
}

// begin sends what is due.
func (g *generator) begin(now int64) {
	for sent := 0; g.next <= now && sent < burst; sent++ {
		due := g.next
		g.arrive()
		g.ask(due, now)
	}
	for sent := 0; !g.begins.empty() && g.begins.first().at <= now && sent < burst; sent++ {
		g.begins.pop()
		if now < g.end {
			g.ask(now, now)
		}
	}
}

// giveUp hangs up on those who had their time.
func (g *generator) giveUp(now int64) {
	for !g.giveUps.empty() && g.giveUps.first().at <= now {
		one := g.giveUps.first()
		g.giveUps.pop()
		c := &g.conns[one.fd]
		if (c.state != busy && c.state != connecting) || c.serial != one.serial {
			continue
		}
		due := c.due
		if c.state == connecting && !g.closedLoop {
			c.serial = 0 // a pool goes on connecting: the connection will be of use to another
		} else {
			g.hangUp(one.fd)
		}
		if into := g.conclude(due); into != nil {
			into.Unanswered++
		}
		g.again(now, 0)
	}
}

// quiet is how long nothing has to be done.
func (g *generator) quiet(now int64) int64 {
	until := g.next
	if !g.begins.empty() {
		until = min(until, g.begins.first().at)
	}
	if !g.giveUps.empty() {
		until = min(until, g.giveUps.first().at)
	}
	if now < g.end {
		until = min(until, g.end)
	}
	return max(0, min(until-now, int64(time.Second)))
}

// wait is epoll_wait; what has a finer clock rounds nothing up.
func (g *generator) wait(events []syscall.EpollEvent, nanoseconds int64) int {
	limit := syscall.NsecToTimespec(nanoseconds)
	n, _, errno := syscall.RawSyscall6(sysEpollPwait2, uintptr(g.epoll), uintptr(unsafe.Pointer(&events[0])),
		uintptr(len(events)), uintptr(unsafe.Pointer(&limit)), 0, 0)
	switch errno {
	case 0:
		return int(n)
	case syscall.EINTR:
		return 0
	case syscall.ENOSYS:
		m, err := syscall.EpollWait(g.epoll, events, int(nanoseconds/1e6))
		if err != nil && err != syscall.EINTR {
			die(err)
		}
		return max(0, m)
	}
	die(errno)
	return 0
}

// ask sends one request, on a free connection or on a new one.
func (g *generator) ask(due, now int64) {
	if into := g.count(due); into != nil {
		into.Sent++
		if !g.closedLoop { // where a request is due when it is sent
			g.behind = append(g.behind, int32((now-due)/1000))
		}
	}
	fd := g.take()
	if fd < 0 && g.open < g.limit {
		fd = g.connect()
	} else if fd < 0 {
		if into := g.count(due); into != nil {
			into.Unanswered++
			g.unsent++
		}
		return
	}
	g.underWay++
	if fd < 0 {
		g.fail(due, "connect")
		g.again(now, g.pause)
		return
	}
	c := &g.conns[fd]
	g.serial++
	c.serial, c.due, c.target, c.data = g.serial, due, g.asked%len(g.requests), c.data[:0]
	g.asked++
	g.giveUps.push(moment{due + g.timeout + g.grace, fd, c.serial})
	if c.state == idle {
		c.state = busy
		g.write(fd)
	}
}

// take is a free connection, the one that was used last; -1 without one.
func (g *generator) take() int {
	for len(g.free) > 0 {
		fd := g.free[len(g.free)-1]
		g.free = g.free[:len(g.free)-1]
		if g.conns[fd].state == idle {
			return fd
		}
	}
	return -1
}

// connect opens a connection; -1 when that is refused at once.
func (g *generator) connect() int {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	// A caller who gives up resets: the port is free again, and the server is told.
	_ = syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	if err = syscall.Connect(fd, &g.address); err != nil && err != syscall.EINPROGRESS {
		syscall.Close(fd)
		return -1
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLOUT, Fd: int32(fd)}
	if err = syscall.EpollCtl(g.epoll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
		die(err)
	}
	for len(g.conns) <= fd {
		g.conns = append(g.conns, conn{})
	}
	g.conns[fd].state = connecting
	g.open++
	g.opened++
	return fd
}

func (g *generator) hangUp(fd int) {
	g.conns[fd].state = closed
	g.open--
	syscall.Close(fd)
}

// write sends the request of a connection. It is short: a socket that does not take it is broken.
func (g *generator) write(fd int) {
	c := &g.conns[fd]
	request := g.requests[c.target]
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&request[0])), uintptr(len(request)))
	if errno != 0 || int(n) < len(request) {
		g.breakOff(fd, "write")
	}
}

// meet looks at what happened on a connection.
func (g *generator) meet(fd int, events uint32) {
	c := &g.conns[fd]
	if c.state == closed {
		return
	}
	if c.state == connecting {
		if code, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ERROR); err != nil || code != 0 {
			g.breakOff(fd, "connect")
			return
		}
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
		if err := syscall.EpollCtl(g.epoll, syscall.EPOLL_CTL_MOD, fd, &event); err != nil {
			die(err)
		}
		if c.serial == 0 {
			c.state = idle
			g.free = append(g.free, fd)
			return
		}
		c.state = busy
		g.write(fd)
		return
	}
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&g.buffer[0])), uintptr(len(g.buffer)))
	switch {
	case errno == syscall.EAGAIN || errno == syscall.EINTR:
	case errno != 0:
		g.breakOff(fd, "reset")
	case n == 0:
		g.breakOff(fd, "closed")
	case c.state == idle:
		g.breakOff(fd, "unasked")
	default:
		g.read(fd, g.buffer[:n])
	}
}

// read takes bytes of an answer, and finishes it when it is whole.
func (g *generator) read(fd int, data []byte) {
	c := &g.conns[fd]
	if len(c.data) > 0 {
		c.data = append(c.data, data...)
		data = c.data
	}
	status, size, head := parse(data)
	switch {
	case size < 0:
		g.breakOff(fd, "protocol")
	case size == 0 || len(data) < size:
		if len(c.data) == 0 {
			c.data = append(c.data, data...)
		}
	default:
		g.finish(fd, status, head)
	}
}

var (
	lengthName = []byte("\r\ncontent-length:")
	retryName  = []byte("\r\nretry-after:")
	closeName  = []byte("\r\nconnection: close")
)

// parse finds the status and the size of the whole answer: 0 while that is not known, -1 if it never will be.
func parse(data []byte) (status, size int, head []byte) {
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		return 0, 0, nil
	}
	head = data[:end+2]
	if len(head) < 14 || !bytes.HasPrefix(head, []byte("HTTP/1.")) {
		return 0, -1, nil
	}
	status, err := strconv.Atoi(string(head[9:12]))
	at := find(head, lengthName)
	if err != nil || at < 0 {
		return 0, -1, nil
	}
	length := 0
	for _, digit := range head[at:] {
		if digit == ' ' {
			continue
		}
		if digit < '0' || digit > '9' {
			break
		}
		length = length*10 + int(digit-'0')
	}
	return status, end + 4 + length, head
}

// find is where the value of a header begins, whatever the case of its name; -1 without it.
func find(head, name []byte) int {
	for at := 0; ; {
		next := bytes.IndexByte(head[at:], '\r')
		if next < 0 || at+next+len(name) > len(head) {
			return -1
		}
		at += next
		if bytes.EqualFold(head[at:at+len(name)], name) {
			return at + len(name)
		}
		at++
	}
}

// finish counts an answer, and its caller goes on.
func (g *generator) finish(fd, status int, head []byte) {
	c := &g.conns[fd]
	now, due := g.now(), c.due
	took := now - due
	refused := status == 503 && find(head, retryName) >= 0
	g.answered++
	if into := g.conclude(due); into != nil {
		g.statuses[status]++
		sample := int32(took / 1000)
		switch {
		case status == 200:
			g.ok = append(g.ok, sample)
		case refused:
			g.refusals = append(g.refusals, sample)
		default:
			g.others = append(g.others, sample)
		}
		switch {
		case took > g.timeout+g.margin:
			into.Late++
			if status == 200 {
				g.lateOK++
			}
		case status == 200:
			into.Good++
		case refused:
			into.Refused++
		default:
			into.Failed++
		}
	}
	if find(head, closeName) >= 0 {
		g.hangUp(fd)
	} else {
		c.state = idle
		g.free = append(g.free, fd)
	}
	if refused {
		g.again(now, g.pause)
	} else {
		g.again(now, 0)
	}
}

// again lets the caller of a closed loop ask once more, now or after a pause.
func (g *generator) again(now, pause int64) {
	if !g.closedLoop || now >= g.end {
		return
	}
	if pause > 0 {
		// Callers who still begin are in the queue in order of time: nobody is put before them.
		at := now + pause
		if !g.begins.empty() {
			at = max(at, g.begins.items[len(g.begins.items)-1].at)
		}
		g.begins.push(moment{at: at})
		return
	}
	g.ask(now, now)
}

// breakOff ends a connection, and the request on it if there is one.
func (g *generator) breakOff(fd int, kind string) {
	was, due, serial := g.conns[fd].state, g.conns[fd].due, g.conns[fd].serial
	g.hangUp(fd)
	if was == idle || serial == 0 {
		return
	}
	g.fail(due, kind)
	g.again(g.now(), g.pause)
}

func (g *generator) fail(due int64, kind string) {
	if into := g.conclude(due); into != nil {
		into.Errors++
		g.errors[kind]++
	}
}

// conclude ends one request that was under way, and is where to count it.
func (g *generator) conclude(due int64) *second {
	g.underWay--
	return g.count(due)
}

// count is the second of a request that counts; nil during the warm-up.
func (g *generator) count(due int64) *second {
	if due < g.warmup {
		return nil
	}
	return &g.series[(due-g.warmup)/int64(time.Second)]
}

// report is the JSON document. Times in it are milliseconds.
func (g *generator) report() map[string]any {
	sum := second{}
	for _, one := range g.series {
		sum.Sent += one.Sent
		sum.Good += one.Good
		sum.Failed += one.Failed
		sum.Refused += one.Refused
		sum.Late += one.Late
		sum.Unanswered += one.Unanswered
		sum.Errors += one.Errors
	}
	all := append(append(append([]int32{}, g.ok...), g.refusals...), g.others...)
	statuses := map[string]int{}
	for status, n := range g.statuses {
		statuses[strconv.Itoa(status)] = n
	}
	return map[string]any{
		"seconds": float64(g.end-g.warmup) / 1e9,
		"sent":    sum.Sent, "good": sum.Good, "failed": sum.Failed, "refused": sum.Refused, "late": sum.Late,
		"late_200": g.lateOK, "unanswered": sum.Unanswered, "no_connection": g.unsent,
		"broken": sum.Errors, "errors": g.errors, "status": statuses,
		"latency_ms": map[string]any{
			"all": quantiles(all), "200": quantiles(g.ok), "refused": quantiles(g.refusals),
		},
		"behind_ms": quantiles(g.behind),
		"stall_ms":  round(float64(g.stall) / 1e6),
		"answered":  g.answered, "opened": g.opened,
		"series": g.series,
		"cdf":    map[string]any{"all": cdf(all), "200": cdf(g.ok), "refused": cdf(g.refusals)},
	}
}

// quantiles are of samples in microseconds, which are sorted here.
func quantiles(samples []int32) map[string]float64 {
	found := map[string]float64{"count": float64(len(samples))}
	if len(samples) == 0 {
		return found
	}
	sort.Slice(samples, func(i, j int) bool { return samples[i] < samples[j] })
	for name, q := range map[string]float64{"p50": .5, "p90": .9, "p95": .95, "p99": .99, "p999": .999, "max": 1} {
		found[name] = at(samples, q)
	}
	return found
}

// at is the q-quantile of sorted samples, in milliseconds.
func at(samples []int32, q float64) float64 {
	return round(float64(samples[min(len(samples)-1, int(q*float64(len(samples))))]) / 1000)
}

// cdf is 200 points of sorted samples: the quantiles in milliseconds, in steps of half a percent, and the tail.
func cdf(samples []int32) [][2]float64 {
	points := [][2]float64{}
	if len(samples) == 0 {
		return points
	}
	for i := 0; i < 200; i++ {
		points = append(points, [2]float64{at(samples, float64(i)/200), float64(i) / 200})
	}
	for _, q := range []float64{.999, .9999, 1} {
		points = append(points, [2]float64{at(samples, q), q})
	}
	return points
}

func round(number float64) float64 { return math.Round(number*1000) / 1000 }

func die(err error) {
	fmt.Fprintln(os.Stderr, "generator:", err)
	os.Exit(1)
}
