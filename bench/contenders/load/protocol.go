package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

// protocol is what a client says on a connection, and how it knows a whole answer.
type protocol struct {
	// hello is sent first, and answered 101; empty if requests come at once.
	hello []byte
	// message is sent again and again.
	message []byte
	// fresh says that a connection takes one message.
	fresh bool
	// answer has the first bytes of each answer, and length is that of the whole, if it is known: for HTTP it
	// is once one answer was looked at in full.
	answer []byte
	length int
	// http says that an answer is one of HTTP.
	http bool
}

func newProtocol(path string) (*protocol, error) {
	switch *kind {
	case "http", "fresh":
		return &protocol{message: request(path, *kind == "fresh"), fresh: *kind == "fresh", http: true, answer: ok200}, nil
	case "websocket":
		answer := frame(*size, false)
		return &protocol{
			hello:   upgrade("GET", path, "websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
			message: frame(*size, true),
			answer:  answer[:len(answer)-*size],
			length:  len(answer),
		}, nil
	case "raw":
		return &protocol{hello: upgrade("POST", path, "tcp"), message: make([]byte, *size), length: *size}, nil
	}
	return nil, fmt.Errorf("no kind %s", *kind)
}

var ok200 = []byte("HTTP/1.1 200 ")

func request(path string, last bool) []byte {
	text := "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n"
	body := ""
	if *size > 0 {
		body = `{"data":"` + strings.Repeat("x", *size-len(`{"data":""}`)) + `"}`
		text = "POST" + strings.TrimPrefix(text, "GET") + "Content-Type: application/json\r\nContent-Length: " +
			strconv.Itoa(*size) + "\r\n"
	}
	if last {
		text += "Connection: close\r\n"
	}
	return []byte(text + "\r\n" + body)
}

func upgrade(method, path, to string, headers ...string) []byte {
	lines := append([]string{method + " " + path + " HTTP/1.1", "Host: localhost", "Connection: Upgrade", "Upgrade: " + to}, headers...)
	return []byte(strings.Join(lines, "\r\n") + "\r\n\r\n")
}

// frame is a binary message of a WebSocket (RFC 6455, 5.2), with a mask if a client sends it.
func frame(length int, masked bool) []byte {
	mask := byte(0)
	if masked {
		mask = 0x80
	}
	head := []byte{0x82}
	switch {
	case length < 126:
		head = append(head, mask|byte(length))
	case length < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, mask|126), uint16(length))
	default:
		head = binary.BigEndian.AppendUint64(append(head, mask|127), uint64(length))
	}
	if masked {
		head = append(head, 0x12, 0x34, 0x56, 0x78)
	}
	return append(head, make([]byte, length)...)
}

// connect connects, and upgrades the connection where the protocol says so.
func (p *protocol) connect(family int, where syscall.Sockaddr) (int, error) {
	fd, err := dial(family, where)
	if err != nil {
		return -1, err
	}
	if len(p.hello) > 0 {
		if err := greet(fd, p.hello); err != nil {
			syscall.Close(fd)
			return -1, err
		}
	}
	return fd, syscall.SetNonblock(fd, true)
}

// greet waits for a 101 and nothing after it.
func greet(fd int, hello []byte) error {
	if _, err := syscall.Write(fd, hello); err != nil {
		return err
	}
	syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 20})
	buffer, n := make([]byte, 4096), 0
	for !bytes.Contains(buffer[:n], []byte("\r\n\r\n")) {
		more, err := syscall.Read(fd, buffer[n:])
		if err == syscall.EINTR {
			continue // Go's own signals; a read with a limit is not taken up again by itself.
		}
		if err != nil {
			return fmt.Errorf("no answer to an upgrade: %w", err)
		}
		if more == 0 {
			return fmt.Errorf("an upgrade was answered %q", buffer[:n])
		}
		n += more
	}
	if !bytes.HasPrefix(buffer[:n], []byte("HTTP/1.1 101 ")) || !bytes.HasSuffix(buffer[:n], []byte("\r\n\r\n")) {
		return fmt.Errorf("an upgrade was answered %q", buffer[:n])
	}
	return nil
}

// complete says whether what came of an answer is the whole of it.
func (p *protocol) complete(answer []byte) (bool, error) {
	known := min(len(answer), len(p.answer))
	if !bytes.Equal(answer[:known], p.answer[:known]) {
		return false, fmt.Errorf("answered %q", answer[:min(len(answer), 60)])
	}
	if p.length > 0 && len(answer) == p.length {
		return true, nil
	}
	if !p.http {
		if len(answer) > p.length {
			return false, errors.New("more came than one answer")
		}
		return false, nil
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
			p.length = len(answer)
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
