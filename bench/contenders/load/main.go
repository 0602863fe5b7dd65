// Load is the client of the bench: one thread, one epoll, tcp and unix sockets alike, so that what is
// measured on both is measured the same way. It prints one JSON value.
//
//	load turns -kind http -c 32 -turns 8 ADDRESS,PID,PATH ...            several servers, a slice each in turn
//	load gate   -to unix:/run/s -path /_ping -c 10000 -pid 42 [-held]    a crowd, held behind a gate
//	load idle   -to tcp:127.0.0.1:80 -path /_ping -c 5000                connections that stay
//	load stream -to tcp:127.0.0.1:80 -path /bytes/64                     one long answer
//	load start  -to unix:/run/s [-path /_ping] [-ready] -- PROGRAM ...   from exec to a connection
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var (
	to      = flag.String("to", "", "tcp:HOST:PORT or unix:PATH")
	kind    = flag.String("kind", "http", "http (kept connections), fresh (a connection a request), websocket or raw")
	path    = flag.String("path", "", "what to ask for")
	size    = flag.Int("size", 0, "bytes of a request's body, which makes it a POST, or of a message")
	clients = flag.Int("c", 1, "connections")
	turns   = flag.Int("turns", 1, "how many turns; in a turn each server has two slices")
	slice   = flag.Duration("slice", 40*time.Millisecond, "how long to measure in a slice")
	warm    = flag.Duration("warm", 8*time.Millisecond, "how long to ask before that")
	pid     = flag.Int("pid", 0, "the server")
	held    = flag.Bool("held", false, "hold the clients first: the server opens its gate at SIGWINCH")
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
		"turns": inTurns, "gate": gate, "idle": idle, "stream": stream, "start": start,
	}
	run, ok := modes[mode]
	if !ok {
		fail(fmt.Errorf("no mode %s", mode))
	}
	runtime.LockOSThread()
	prefer(os.Getpid())
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

// prefer gives a process, and the threads and processes that it starts, the highest priority that is not
// real-time, the client and each server alike. Only root may; others measure without. With SCHED_FIFO other
// work disturbs less, but then V8's threads, which wait for each other in loops, do so for ever where
// those that wait have both cores.
func prefer(pid int) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return
	}
	for _, thread := range threads {
		if tid, err := strconv.Atoi(thread.Name()); err == nil {
			syscall.Setpriority(syscall.PRIO_PROCESS, tid, -20)
		}
	}
}

// address gives what connect(2) needs.
func address(text string) (int, syscall.Sockaddr, error) {
	if name := strings.TrimPrefix(text, "unix:"); name != text {
		return syscall.AF_UNIX, &syscall.SockaddrUnix{Name: name}, nil
	}
	host, port, err := net.SplitHostPort(strings.TrimPrefix(text, "tcp:"))
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
	if *size > 1<<14 {
		// The whole message fits, and one write(2) sends it.
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 1<<18)
	}
	return fd, nil
}
