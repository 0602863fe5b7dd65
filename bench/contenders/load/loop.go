package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// client is one connection and what has come of its answer.
type client struct {
	fd       int
	sent     time.Time
	got      []byte
	answered bool
}

// loop is an epoll and its clients, which all go to one server, by descriptor.
type loop struct {
	*protocol
	epoll   int
	family  int
	where   syscall.Sockaddr
	clients map[int]*client
	buffer  []byte
}

func newLoop(to, path string) (*loop, error) {
	family, where, err := address(to)
	if err != nil {
		return nil, err
	}
	p, err := newProtocol(path)
	if err != nil {
		return nil, err
	}
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	return &loop{p, epoll, family, where, map[int]*client{}, make([]byte, 1<<18)}, err
}

// open connects one more client.
func (l *loop) open() (*client, error) {
	began := time.Now()
	fd, err := l.connect(l.family, l.where)
	if err != nil {
		return nil, fmt.Errorf("client %d: %w", len(l.clients), err)
	}
	c := &client{fd: fd, sent: began}
	l.clients[fd] = c
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
	return c, syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, fd, &event)
}

// crowd connects all clients.
func (l *loop) crowd(each func(c *client) error) error {
	for i := 0; i < *clients; i++ {
		c, err := l.open()
		if err != nil {
			return err
		}
		if err := each(c); err != nil {
			return err
		}
	}
	return nil
}

// drop closes a connection; closing takes it out of the epoll.
func (l *loop) drop(c *client) {
	delete(l.clients, c.fd)
	syscall.Close(c.fd)
}

func (l *loop) dropAll() {
	for _, c := range l.clients {
		l.drop(c)
	}
}

// send writes a message; its time of sending is now, or, for the first, that of connecting.
func (l *loop) send(c *client) error {
	if !l.fresh {
		c.sent = time.Now()
	}
	n, err := syscall.Write(c.fd, l.message)
	if err == nil && n < len(l.message) {
		err = errors.New("a message does not fit the socket")
	}
	return err
}

// read takes what has come, and says whether the answer is whole and whether the connection ended.
func (l *loop) read(c *client) (whole, ended bool, err error) {
	n, err := syscall.Read(c.fd, l.buffer)
	if err == syscall.EAGAIN {
		return false, false, nil
	}
	if err != nil || n == 0 {
		return false, true, err
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
