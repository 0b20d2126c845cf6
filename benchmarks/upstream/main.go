// The upstream of the benchmarks: it answers at once, or takes its time and fails as the real one does.
//
// One thread and one epoll loop over raw sockets, because it shares a core with the load generator. It reads
// no more of a request than where it ends, and knows nothing of who is measured.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// slots is the size of the wheel of pending answers, a millisecond each: no latency is longer.
const slots = 8192

// moods are what an answer can be.
const (
	answer = iota
	failure
	invalid
	hang
)

// conn is one connection; serial tells it from an earlier one with the same descriptor.
type conn struct {
	serial uint32
	open   bool
	rest   []byte
}

// due is an answer that waits for its time.
type due struct {
	fd     int
	serial uint32
	mood   int
	took   int
}

type upstream struct {
	epoll, listener                int
	conns                          []conn
	wheel                          [slots][]due
	pending                        int
	tick                           int64
	rng                            *rand.Rand
	low, high                      int
	failures, invalids, hangs      float64
	buffer                         []byte
	out                            []byte
	accepted, requests, inProgress int
}

func main() {
	port := flag.Int("port", 0, "where to listen on loopback")
	latency := flag.String("latency", "0", "milliseconds: one number, or LOW-HIGH for a uniform one")
	u := &upstream{buffer: make([]byte, 65536)}
	flag.Float64Var(&u.failures, "failure", 0, "share of answers that are a 500")
	flag.Float64Var(&u.invalids, "invalid", 0, "share of answers with an invalid body")
	flag.Float64Var(&u.hangs, "hang", 0, "share of requests that are never answered")
	seed := flag.Int64("seed", 1, "of the random numbers")
	flag.Parse()
	u.rng = rand.New(rand.NewSource(*seed))
	u.low, u.high = span(*latency)
	debug.SetGCPercent(-1) // nothing is allocated per request; the limit is for the descriptors' table
	debug.SetMemoryLimit(512 << 20)
	u.listen(*port)
	u.serve()
}

// span reads "50" or "100-600".
func span(text string) (int, int) {
	first, second, both := strings.Cut(text, "-")
	low, err := strconv.Atoi(first)
	high := low
	if err == nil && both {
		high, err = strconv.Atoi(second)
	}
	if err != nil || low < 0 || high < low || high >= slots {
		die(fmt.Errorf("latency %q: not like 50 or 100-600, below %d", text, slots))
	}
	return low, high
}

// listen opens the listening socket and the epoll set.
func (u *upstream) listen(port int) {
	var err error
	if u.listener, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0); err != nil {
		die(err)
	}
	_ = syscall.SetsockoptInt(u.listener, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	address := &syscall.SockaddrInet4{Port: port}
	copy(address.Addr[:], net.IPv4(127, 0, 0, 1).To4())
	if err = syscall.Bind(u.listener, address); err != nil {
		die(err)
	}
	if err = syscall.Listen(u.listener, 65535); err != nil {
		die(err)
	}
	if u.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		die(err)
	}
	u.watch(u.listener)
}

func (u *upstream) watch(fd int) {
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: int32(fd)}
	if err := syscall.EpollCtl(u.epoll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
		die(err)
	}
}

// serve is the loop: what has come, then what is due.
func (u *upstream) serve() {
	events := make([]syscall.EpollEvent, 1024)
	began := time.Now()
	for {
		wait := -1
		if u.pending > 0 {
			wait = 1
		}
		n, err := syscall.EpollWait(u.epoll, events, wait)
		if err != nil && err != syscall.EINTR {
			die(err)
		}
		now := time.Since(began).Milliseconds()
		if u.pending == 0 {
			u.tick = now
		}
		for i := 0; i < n; i++ {
			if fd := int(events[i].Fd); fd == u.listener {
				u.accept()
			} else {
				u.read(fd, now)
			}
		}
		for ; u.tick < now; u.tick++ {
			u.turn(int(u.tick % slots))
		}
	}
}

// accept takes everybody who waits.
func (u *upstream) accept() {
	for {
		fd, _, err := syscall.Accept4(u.listener, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			if err == syscall.EMFILE || err == syscall.ENFILE {
				die(err) // else the loop would spin, and the figures would be wrong in silence
			}
			return
		}
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		for len(u.conns) <= fd {
			u.conns = append(u.conns, conn{})
		}
		u.conns[fd] = conn{serial: u.conns[fd].serial + 1, open: true, rest: u.conns[fd].rest[:0]}
		u.accepted++
		u.inProgress++
		u.watch(fd)
	}
}

// read takes what has come, and answers each whole request in it.
func (u *upstream) read(fd int, now int64) {
	c := &u.conns[fd]
	if !c.open {
		return
	}
	n, err := syscall.Read(fd, u.buffer)
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return
	}
	if err != nil || n == 0 {
		u.hangUp(fd)
		return
	}
	data := u.buffer[:n]
	if len(c.rest) > 0 {
		c.rest = append(c.rest, data...)
		data = c.rest
	}
	for c.open {
		end := bytes.Index(data, []byte("\r\n\r\n"))
		if end < 0 {
			break
		}
		u.meet(fd, data[:end], now)
		data = data[end+4:]
	}
	if c.open {
		c.rest = append(c.rest[:0], data...)
	}
}

func (u *upstream) hangUp(fd int) {
	u.conns[fd].open = false
	u.inProgress--
	syscall.Close(fd)
}

// meet draws what becomes of one request.
func (u *upstream) meet(fd int, head []byte, now int64) {
	if bytes.HasPrefix(head, []byte("GET /stats")) {
		body := fmt.Sprintf(`{"accepted": %d, "requests": %d, "open": %d}`, u.accepted, u.requests, u.inProgress)
		u.send(fd, "200 OK", body)
		return
	}
	u.requests++
	mood, took := u.draw()
	switch {
	case mood == hang:
	case took == 0:
		u.reply(fd, mood, took)
	default:
		slot := (now + int64(took)) % slots
		u.wheel[slot] = append(u.wheel[slot], due{fd, u.conns[fd].serial, mood, took})
		u.pending++
	}
}

func (u *upstream) draw() (int, int) {
	took := u.low
	if u.high > u.low {
		took += u.rng.Intn(u.high - u.low + 1)
	}
	luck := u.rng.Float64()
	switch {
	case luck < u.failures:
		return failure, took
	case luck < u.failures+u.invalids:
		return invalid, took
	case luck < u.failures+u.invalids+u.hangs:
		return hang, took
	}
	return answer, took
}

// turn sends what is due in one slot, unless the caller has gone.
func (u *upstream) turn(slot int) {
	waiting := u.wheel[slot]
	u.wheel[slot] = waiting[:0]
	u.pending -= len(waiting)
	for _, one := range waiting {
		if c := &u.conns[one.fd]; c.open && c.serial == one.serial {
			u.reply(one.fd, one.mood, one.took)
		}
	}
}

func (u *upstream) reply(fd, mood, took int) {
	switch mood {
	case failure:
		u.send(fd, "500 Internal Server Error", `{"error": "failed"}`)
	case invalid:
		u.send(fd, "200 OK", `{"time": "soon`)
	default:
		u.out = append(u.out[:0], "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "...)
		digits := 1
		for rest := took; rest > 9; rest /= 10 {
			digits++
		}
		u.out = strconv.AppendInt(u.out, int64(10+digits-1), 10)
		u.out = append(u.out, "\r\n\r\n{\"time\":"...)
		u.out = strconv.AppendInt(u.out, int64(took), 10)
		u.out = append(u.out, '}')
		u.write(fd)
	}
}

func (u *upstream) send(fd int, status, body string) {
	u.out = fmt.Appendf(u.out[:0], "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
	u.write(fd)
}

// write sends an answer. It is short, so a socket that does not take it is broken.
func (u *upstream) write(fd int) {
	if n, err := syscall.Write(fd, u.out); err != nil || n < len(u.out) {
		u.hangUp(fd)
	}
}

func die(err error) {
	fmt.Fprintln(os.Stderr, "upstream:", err)
	os.Exit(1)
}
