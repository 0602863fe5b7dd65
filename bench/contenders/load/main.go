// Load is the client of the bench: one thread, one epoll, tcp and unix sockets alike, so that what is
// measured on both is measured the same way. It prints one JSON object.
//
//	load rate   -to tcp:127.0.0.1:80 -path /_ping -c 32 -for 1s   requests on kept connections
//	load fresh  -to unix:/run/s -path /_ping -c 32 -for 1s                    a connection a request
//	load gate   -to unix:/run/s -path /_ping -c 10000 -pid 42                 clients held behind a gate
//	load idle   -to tcp:127.0.0.1:80 -path /_ping -c 5000                     connections that stay
//	load stream -to tcp:127.0.0.1:80 -path /bytes                             one long answer
//	load start  -to unix:/run/s [-path /_ping] [-ready] -- PROGRAM ARG ...    from exec to a connection
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var (
	to      = flag.String("to", "", "tcp:HOST:PORT or unix:PATH")
	path    = flag.String("path", "", "what to ask for")
	clients = flag.Int("c", 1, "connections")
	length  = flag.Duration("for", time.Second, "how long to measure")
	warm    = flag.Duration("warm", 0, "how long to ask before that")
	pid     = flag.Int("pid", 0, "the server: whose time is counted, or who opens the gate at SIGUSR2")
	ready   = flag.Bool("ready", false, "wait for READY=1 as well")
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("which mode?"))
	}
	mode := os.Args[1]
	if err := flag.CommandLine.Parse(os.Args[2:]); err != nil {
		fail(err)
	}
	modes := map[string]func() (interface{}, error){
		"rate": rate, "fresh": fresh, "gate": gate, "idle": idle, "stream": stream, "start": start,
	}
	run, ok := modes[mode]
	if !ok {
		fail(fmt.Errorf("no mode %s", mode))
	}
	runtime.LockOSThread()
	result, err := run()
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "load:", err)
	os.Exit(1)
}

// address gives what connect(2) needs.
func address() (int, syscall.Sockaddr, error) {
	if name := strings.TrimPrefix(*to, "unix:"); name != *to {
		return syscall.AF_UNIX, &syscall.SockaddrUnix{Name: name}, nil
	}
	host, port, err := net.SplitHostPort(strings.TrimPrefix(*to, "tcp:"))
	if err != nil {
		return 0, nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return 0, nil, err
	}
	ip := net.ParseIP(host).To4()
	if ip == nil {
		return 0, nil, fmt.Errorf("%s is no IPv4 address", host)
	}
	return syscall.AF_INET, &syscall.SockaddrInet4{Port: number, Addr: [4]byte{ip[0], ip[1], ip[2], ip[3]}}, nil
}

// dial connects, and blocks until there is room for it.
func dial(family int, where syscall.Sockaddr) (int, error) {
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := syscall.Connect(fd, where); err != nil {
		syscall.Close(fd)
		return -1, err
	}
	if family == syscall.AF_INET {
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	}
	return fd, syscall.SetNonblock(fd, true)
}

func request(last bool) []byte {
	text := "GET " + *path + " HTTP/1.1\r\nHost: localhost\r\n"
	if last {
		text += "Connection: close\r\n"
	}
	return []byte(text + "\r\n")
}

// client is one connection and what has come of its answer.
type client struct {
	fd       int
	sent     time.Time
	got      []byte
	answered bool
}

// loop is an epoll and its clients by descriptor.
type loop struct {
	epoll   int
	clients map[int]*client
	buffer  []byte
	// whole is the length of an answer that was looked at in full; the next ones have the same.
	whole int
}

func newLoop() (*loop, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	return &loop{epoll: epoll, clients: map[int]*client{}, buffer: make([]byte, 1<<16)}, err
}

func (l *loop) add(fd int) (*client, error) {
	c := &client{fd: fd}
	l.clients[fd] = c
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
	return c, syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, fd, &event)
}

// drop closes a connection; closing takes it out of the epoll.
func (l *loop) drop(c *client) {
	delete(l.clients, c.fd)
	syscall.Close(c.fd)
}

func (c *client) send(text []byte) error {
	c.sent = time.Now()
	n, err := syscall.Write(c.fd, text)
	if err == nil && n < len(text) {
		err = errors.New("a request does not fit the socket")
	}
	return err
}

// read takes what has come, and says whether the answer is whole and whether the connection ended.
func (l *loop) read(c *client) (whole, ended bool, err error) {
	n, err := syscall.Read(c.fd, l.buffer)
	if err == syscall.EAGAIN {
		return false, false, nil
	}
	if err != nil {
		return false, true, err
	}
	if n == 0 {
		return false, true, nil
	}
	answer := l.buffer[:n]
	if len(c.got) > 0 {
		c.got = append(c.got, answer...)
		answer = c.got
	}
	whole, err = l.complete(answer)
	if whole {
		c.got = c.got[:0]
	} else if len(c.got) == 0 {
		c.got = append(c.got, answer...)
	}
	return whole, false, err
}

var ok200 = []byte("HTTP/1.1 200 ")

func (l *loop) complete(answer []byte) (bool, error) {
	if len(answer) >= len(ok200) && !bytes.HasPrefix(answer, ok200) {
		return false, fmt.Errorf("answered %q", answer[:min(len(answer), 60)])
	}
	if l.whole > 0 && len(answer) == l.whole {
		return true, nil
	}
	end := bytes.Index(answer, []byte("\r\n\r\n"))
	if end < 0 {
		return false, nil
	}
	for _, line := range bytes.Split(answer[:end], []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch strings.ToLower(string(name)) {
		case "content-length":
			length, err := strconv.Atoi(string(value))
			if err != nil {
				return false, err
			}
			if len(answer) > end+4+length {
				return false, errors.New("more came than one answer")
			}
			if len(answer) < end+4+length {
				return false, nil
			}
			l.whole = len(answer)
			return true, nil
		case "transfer-encoding":
			return bytes.HasSuffix(answer, []byte("\r\n0\r\n\r\n")), nil
		}
	}
	return false, errors.New("an answer without a length")
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

// wait calls ready for each client that has something to read, until it says that it is done.
func (l *loop) wait(ready func(c *client, now time.Time) (bool, error)) error {
	events := make([]syscall.EpollEvent, 512)
	silent := 0
	for {
		n, err := syscall.EpollWait(l.epoll, events, 1000)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			if silent++; silent == 20 {
				return errors.New("nothing came for 20 s")
			}
			continue
		}
		silent = 0
		now := time.Now()
		for _, event := range events[:n] {
			c := l.clients[int(event.Fd)]
			if c == nil {
				continue
			}
			done, err := ready(c, now)
			if err != nil || done {
				return err
			}
		}
	}
}

// times counts latencies by the microsecond.
type times struct {
	counts [200_000]uint32
	total  int
}

func (t *times) add(latency time.Duration) {
	us := int(latency.Microseconds())
	if us >= len(t.counts) {
		us = len(t.counts) - 1
	}
	t.counts[us]++
	t.total++
}

func (t *times) quantile(q float64) int {
	rest := int(float64(t.total) * q)
	for us, count := range t.counts {
		if rest -= int(count); rest < 0 {
			return us
		}
	}
	return len(t.counts)
}

type rates struct {
	Rate  float64 `json:"rate"`
	P50   int     `json:"p50"`
	P99   int     `json:"p99"`
	Bytes int     `json:"bytes"`
	// CPU is the server's processor time for a request in microseconds.
	CPU float64 `json:"cpu"`
}

// window is the time in which answers count.
type window struct {
	times
	begin, end, last time.Time
	cpu              float64
}

func newWindow() *window {
	begin := time.Now().Add(*warm)
	return &window{begin: begin, end: begin.Add(*length)}
}

// add counts an answer, and says whether the window has closed.
func (w *window) add(sent, now time.Time) bool {
	if now.Before(w.begin) {
		return false
	}
	if w.last.IsZero() {
		w.begin, w.cpu = now, cpu()
	}
	w.last = now
	w.times.add(now.Sub(sent))
	return now.After(w.end)
}

func (w *window) rates(size int) rates {
	n := float64(w.total)
	return rates{n / w.last.Sub(w.begin).Seconds(), w.quantile(.5), w.quantile(.99), size, (cpu() - w.cpu) / n}
}

// cpu gives the processor time, in microseconds, that the server's threads have had.
func cpu() float64 {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", *pid))
	total := 0.0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // A thread that has ended.
		}
		ns, _, _ := strings.Cut(string(text), " ")
		value, _ := strconv.ParseFloat(ns, 64)
		total += value / 1000
	}
	return total
}

func rate() (interface{}, error) {
	family, where, err := address()
	if err != nil {
		return nil, err
	}
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	text := request(false)
	for i := 0; i < *clients; i++ {
		fd, err := dial(family, where)
		if err != nil {
			return nil, err
		}
		c, err := l.add(fd)
		if err != nil {
			return nil, err
		}
		if err := c.send(text); err != nil {
			return nil, err
		}
	}
	seen := newWindow()
	err = l.wait(func(c *client, now time.Time) (bool, error) {
		whole, ended, err := l.read(c)
		if err != nil || ended {
			return false, fmt.Errorf("a connection ended: %v", err)
		}
		if !whole {
			return false, nil
		}
		if seen.add(c.sent, now) {
			return true, nil
		}
		return false, c.send(text)
	})
	if err != nil {
		return nil, err
	}
	return seen.rates(l.whole), nil
}

func fresh() (interface{}, error) {
	family, where, err := address()
	if err != nil {
		return nil, err
	}
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	text := request(true)
	next := func() error {
		sent := time.Now()
		fd, err := dial(family, where)
		if err != nil {
			return err
		}
		c, err := l.add(fd)
		if err != nil {
			return err
		}
		err = c.send(text)
		c.sent = sent
		return err
	}
	for i := 0; i < *clients; i++ {
		if err := next(); err != nil {
			return nil, err
		}
	}
	seen := newWindow()
	err = l.wait(func(c *client, now time.Time) (bool, error) {
		whole, ended, err := l.read(c)
		if err != nil {
			return false, err
		}
		c.answered = c.answered || whole
		if !ended {
			return false, nil
		}
		if !c.answered {
			return false, errors.New("a connection ended without an answer")
		}
		l.drop(c)
		if seen.add(c.sent, now) {
			return true, nil
		}
		return false, next()
	})
	if err != nil {
		return nil, err
	}
	return seen.rates(l.whole), nil
}

// crowd connects all clients.
func crowd(each func(c *client) error) (*loop, error) {
	family, where, err := address()
	if err != nil {
		return nil, err
	}
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	for i := 0; i < *clients; i++ {
		fd, err := dial(family, where)
		if err != nil {
			return nil, fmt.Errorf("client %d: %w", i, err)
		}
		c, err := l.add(fd)
		if err != nil {
			return nil, err
		}
		if err := each(c); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// answers waits for one answer a client.
func (l *loop) answers() error {
	left := len(l.clients)
	return l.wait(func(c *client, _ time.Time) (bool, error) {
		whole, ended, err := l.read(c)
		if err != nil || ended {
			return false, fmt.Errorf("a connection ended with %d of %d to answer: %v", left, len(l.clients), err)
		}
		if whole {
			left--
		}
		return left == 0, nil
	})
}

func (l *loop) dropAll() {
	for _, c := range l.clients {
		l.drop(c)
	}
}

// gate measures what a crowd costs that was held, if there is a -pid: from opening the gate to the last
// answer. Then the same from an open gate: clients that connect and ask, and those again on the
// connections they have.
func gate() (interface{}, error) {
	text := request(false)
	found := map[string]float64{}
	since := func(what string, began time.Time) {
		found[what] = float64(time.Since(began).Microseconds()) / 1000
	}
	if *pid != 0 {
		held, err := crowd(func(c *client) error { return c.send(text) })
		if err != nil {
			return nil, err
		}
		// The daemon has taken them all off the kernel's queue; a client cannot see that, so it gets a while.
		time.Sleep(time.Second)
		began := time.Now()
		if err := syscall.Kill(*pid, syscall.SIGUSR2); err != nil {
			return nil, err
		}
		if err := held.answers(); err != nil {
			return nil, err
		}
		since("held", began)
		held.dropAll()
		time.Sleep(time.Second)
	}
	began := time.Now()
	open, err := crowd(func(c *client) error { return c.send(text) })
	if err != nil {
		return nil, err
	}
	if err := open.answers(); err != nil {
		return nil, err
	}
	since("open", began)
	time.Sleep(time.Second / 2)
	began = time.Now()
	for _, c := range open.clients {
		if err := c.send(text); err != nil {
			return nil, err
		}
	}
	if err := open.answers(); err != nil {
		return nil, err
	}
	since("kept", began)
	return found, nil
}

// idle asks once a connection, says so, and keeps them until its input ends.
func idle() (interface{}, error) {
	text := request(false)
	l, err := crowd(func(c *client) error { return c.send(text) })
	if err != nil {
		return nil, err
	}
	if err := l.answers(); err != nil {
		return nil, err
	}
	fmt.Println("idle")
	_, err = io.Copy(io.Discard, os.Stdin)
	return map[string]int{"connections": len(l.clients)}, err
}

func stream() (interface{}, error) {
	family, where, err := address()
	if err != nil {
		return nil, err
	}
	fd, err := dial(family, where)
	if err != nil {
		return nil, err
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		return nil, err
	}
	began := time.Now()
	if _, err := syscall.Write(fd, request(true)); err != nil {
		return nil, err
	}
	buffer := make([]byte, 1<<20)
	total := 0
	for {
		n, err := syscall.Read(fd, buffer)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		total += n
	}
	return map[string]float64{"bytes": float64(total), "seconds": time.Since(began).Seconds()}, nil
}

// start measures, in milliseconds from exec, when a socket can be connected to, when the program said
// READY=1, and when it first answered.
func start() (interface{}, error) {
	family, where, err := address()
	if err != nil {
		return nil, err
	}
	command := exec.Command(flag.Arg(0), flag.Args()[1:]...)
	command.Env = os.Environ()
	var notified *net.UnixConn
	if *ready {
		folder, err := os.MkdirTemp("", "ready-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(folder)
		name := filepath.Join(folder, "notify")
		if notified, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"}); err != nil {
			return nil, err
		}
		command.Env = append(command.Env, "NOTIFY_SOCKET="+name)
	}
	result := map[string]float64{}
	began := time.Now()
	since := func() float64 { return float64(time.Since(began).Microseconds()) / 1000 }
	if err := command.Start(); err != nil {
		return nil, err
	}
	defer command.Wait()
	defer command.Process.Kill()
	var fd int
	for {
		if fd, err = dial(family, where); err == nil {
			break
		}
		if time.Since(began) > 20*time.Second {
			return nil, err
		}
		time.Sleep(200 * time.Microsecond)
	}
	result["connect"] = since()
	if *path != "" {
		l, err := newLoop()
		if err != nil {
			return nil, err
		}
		c, err := l.add(fd)
		if err != nil {
			return nil, err
		}
		if err := c.send(request(false)); err != nil {
			return nil, err
		}
		if err := l.answers(); err != nil {
			return nil, err
		}
		result["answer"] = since()
	}
	if notified != nil {
		notified.SetReadDeadline(began.Add(20 * time.Second))
		buffer := make([]byte, 4096)
		for {
			n, err := notified.Read(buffer)
			if err != nil {
				return nil, err
			}
			if bytes.Contains(buffer[:n], []byte("READY=1")) {
				break
			}
		}
		result["ready"] = since()
	}
	return result, nil
}
