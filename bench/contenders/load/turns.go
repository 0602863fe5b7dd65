package main

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// blocks is in how many parts the latencies are looked at: a turn is too short for what is rare.
const blocks = 8

// found is what a server did: a number a turn, and of latencies a number a block of turns.
type found struct {
	// CPU is the server's processor time, user and system, for an answer in microseconds.
	CPU []float64 `json:"cpu"`
	// Rate is answers a second.
	Rate []float64 `json:"rate"`
	// P50 and P99 are latencies in microseconds.
	P50 []float64 `json:"p50"`
	P99 []float64 `json:"p99"`
}

// server is one of those that are loaded in turn, and its connections.
type server struct {
	*loop
	name string
	pid  int
	window
	latencies
	found
}

// inTurns loads the servers a short slice each, forth and back: A B C C B A, with another first in each
// turn. The two slices of a turn count as one, so that what grows or falls evenly meanwhile disturbs no ratio.
func inTurns() (interface{}, error) {
	servers := []*server{}
	for _, text := range flag.Args() {
		fields := strings.SplitN(text, ",", 3)
		if len(fields) < 3 {
			return nil, fmt.Errorf("%q is no ADDRESS,PID,PATH", text)
		}
		pid, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, err
		}
		prefer(pid)
		l, err := newLoop(fields[0], fields[2])
		if err != nil {
			return nil, err
		}
		if !l.fresh {
			if err := l.crowd(func(*client) error { return nil }); err != nil {
				return nil, err
			}
		}
		servers = append(servers, &server{loop: l, name: text, pid: pid})
	}
	for turn := 0; turn < *turns; turn++ {
		first := turn % len(servers)
		order := append(append([]*server{}, servers[first:]...), servers[:first]...)
		for i := len(order) - 1; i >= 0; i-- {
			order = append(order, order[i])
		}
		for _, s := range order {
			if err := s.slice(); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
		for _, s := range servers {
			s.turn()
			if (turn+1)*blocks / *turns > turn*blocks / *turns {
				s.block()
			}
		}
	}
	results := []found{}
	for _, s := range servers {
		results = append(results, s.found)
	}
	return results, nil
}

// slice keeps all clients asking until its time is over, and then waits for what is on its way. It counts
// from when each client has had an answer and the server has been warmed.
func (s *server) slice() error {
	warmed := time.Now().Add(*warm)
	var began, ends, last time.Time
	var cpu float64
	asked, seen := 0, 0
	ask := func(c *client) error {
		asked++
		return s.send(c)
	}
	next := func() error {
		c, err := s.open()
		if err == nil {
			err = ask(c)
		}
		return err
	}
	if s.fresh {
		for i := 0; i < *clients; i++ {
			if err := next(); err != nil {
				return err
			}
		}
	}
	for _, c := range s.clients {
		if s.fresh {
			break
		}
		if err := ask(c); err != nil {
			return err
		}
	}
	over := false
	return s.wait(func(c *client, now time.Time) (bool, error) {
		whole, ended, err := s.read(c)
		if err != nil || ended && !(s.fresh && c.answered) {
			return false, fmt.Errorf("a connection ended without an answer: %v", err)
		}
		if whole && c.answered && s.fresh {
			return false, errors.New("two answers to one request")
		}
		c.answered = c.answered || whole
		if s.fresh && !ended || !whole && !ended {
			return false, nil
		}
		if s.fresh {
			s.drop(c)
		}
		seen++
		if began.IsZero() && seen >= *clients && !now.Before(warmed) {
			began, ends = now, now.Add(*slice)
			cpu, err = cpuTime(s.pid)
		} else if !began.IsZero() && !over {
			s.count(now.Sub(c.sent))
			if last = now; !now.Before(ends) {
				over = true
				s.seconds += last.Sub(began).Seconds()
				cpu, err = since(cpu, s.pid)
				s.cpu += cpu
			}
		}
		if err != nil || over {
			return seen == asked, err
		}
		if s.fresh {
			return false, next()
		}
		return false, ask(c)
	})
}

// window is what is counted in the slices of a turn.
type window struct {
	answered, seconds, cpu float64
}

// latencies counts answers by the microsecond that they took.
type latencies struct {
	counts [1_000_000]uint32
	total  int
}

func (l *latencies) quantile(q float64) float64 {
	rest := int(float64(l.total) * q)
	for us, count := range l.counts {
		if rest -= int(count); rest < 0 {
			return float64(us)
		}
	}
	return float64(len(l.counts))
}

func (s *server) count(latency time.Duration) {
	s.answered++
	us := int(latency.Microseconds())
	if us >= len(s.counts) {
		us = len(s.counts) - 1
	}
	s.counts[us]++
	s.total++
}

func (s *server) turn() {
	s.CPU = append(s.CPU, s.cpu/s.answered)
	s.Rate = append(s.Rate, s.answered/s.seconds)
	s.window = window{}
}

func (s *server) block() {
	s.P50 = append(s.P50, s.quantile(.5))
	s.P99 = append(s.P99, s.quantile(.99))
	s.latencies = latencies{}
}

// cpuTime gives the processor time, in microseconds, that a process and all its threads, ended ones too,
// have had: its CPU clock, as clock_getcpuclockid(3) names it, which is right to the nanosecond where /proc
// counts ticks or lags by one.
func cpuTime(pid int) (float64, error) {
	const sched = 2 // CPUCLOCK_SCHED
	clock := ^pid<<3 | sched
	var time syscall.Timespec
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&time)), 0); errno != 0 {
		return 0, fmt.Errorf("the CPU clock of process %d: %w", pid, errno)
	}
	return float64(time.Nano()) / 1000, nil
}

func since(before float64, pid int) (float64, error) {
	now, err := cpuTime(pid)
	return now - before, err
}
