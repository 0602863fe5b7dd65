package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// asking connects all clients, each with a message on its way.
func asking() (*loop, error) {
	l, err := newLoop(*to, *path)
	if err != nil {
		return nil, err
	}
	return l, l.crowd(l.send)
}

// gate measures what a crowd costs that was -held: from opening the gate to the last answer. Then the same from an open gate: clients that connect and ask, and those again on the
// connections they have.
func gate() (interface{}, error) {
	found := map[string]float64{}
	since := func(what string, began time.Time) {
		found[what] = float64(time.Since(began).Microseconds()) / 1000
	}
	prefer(*pid)
	if *held {
		crowd, err := asking()
		if err != nil {
			return nil, err
		}
		// The daemon has taken them all off the kernel's queue; a client cannot see that, so it gets a while.
		time.Sleep(time.Second)
		began := time.Now()
		if err := syscall.Kill(*pid, syscall.SIGWINCH); err != nil {
			return nil, err
		}
		if err := crowd.answers(); err != nil {
			return nil, err
		}
		since("held", began)
		crowd.dropAll()
		time.Sleep(time.Second)
	}
	began := time.Now()
	open, err := asking()
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
		if err := open.send(c); err != nil {
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
	l, err := asking()
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
	family, where, err := address(*to)
	if err != nil {
		return nil, err
	}
	fd, err := dial(family, where)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if _, err := syscall.Write(fd, request(*path, true)); err != nil {
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
	l, err := newLoop(*to, *path)
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
	var c *client
	for {
		if c, err = l.open(); err == nil {
			break
		}
		if time.Since(began) > 20*time.Second {
			return nil, errors.New("no socket after 20 s")
		}
		time.Sleep(200 * time.Microsecond)
	}
	result["connect"] = since()
	if *path != "" {
		if err := l.send(c); err != nil {
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
