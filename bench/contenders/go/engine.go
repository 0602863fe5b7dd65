package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// The engine of 2014 in short: a job has a name, arguments, an environment and standard streams, and
// every write goes to all who are attached.

type status int

const (
	statusOK       status = 0
	statusErr      status = 1
	statusNotFound status = 127
)

type handler func(*job) status

type engine struct {
	mu       sync.RWMutex
	handlers map[string]handler
	tasks    sync.WaitGroup
	// log is nil where nothing is logged.
	log io.Writer
}

func newEngine() *engine {
	return &engine{handlers: map[string]handler{}}
}

func (e *engine) register(name string, h handler) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handlers[name] = h
}

func (e *engine) job(name string, args ...string) *job {
	j := &job{engine: e, name: name, args: args, stdin: &input{}, stdout: &output{}, stderr: &output{}}
	e.mu.RLock()
	j.handler = e.handlers[name]
	e.mu.RUnlock()
	return j
}

type job struct {
	engine  *engine
	name    string
	args    []string
	env     []string
	stdin   *input
	stdout  *output
	stderr  *output
	handler handler
	status  status
	end     time.Time
}

func (j *job) setenv(key, value string) { j.env = append(j.env, key+"="+value) }

func (j *job) getenv(key string) string {
	for i := len(j.env) - 1; i >= 0; i-- {
		if name, value, _ := strings.Cut(j.env[i], "="); name == key {
			return value
		}
	}
	return ""
}

func (j *job) run() error {
	if !j.end.IsZero() {
		return fmt.Errorf("%s: job has already completed", j.name)
	}
	j.engine.tasks.Add(1)
	defer j.engine.tasks.Done()
	if j.engine.log != nil {
		fmt.Fprintf(j.engine.log, "+job %s(%s)\n", j.name, strings.Join(j.args, ", "))
	}
	var errors bytes.Buffer
	j.stderr.add(&errors)
	if j.handler == nil {
		fmt.Fprintf(j.stderr, "%s: command not found\n", j.name)
		j.status = statusNotFound
	} else {
		j.status = j.handler(j)
		j.end = time.Now()
	}
	j.stdout.close()
	j.stderr.close()
	j.stdin.close()
	if j.engine.log != nil {
		fmt.Fprintf(j.engine.log, "-job %s = %d\n", j.name, j.status)
	}
	if j.status != statusOK {
		lines := strings.Split(strings.TrimSpace(errors.String()), "\n")
		return fmt.Errorf("%s", lines[len(lines)-1])
	}
	return nil
}

type output struct {
	mu   sync.Mutex
	to   []io.Writer
	done bool
}

func (o *output) add(w io.Writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.to = append(o.to, w)
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var first error
	for _, w := range o.to {
		if _, err := w.Write(p); err != nil && first == nil {
			first = err
		}
	}
	return len(p), first
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done = true
	for _, w := range o.to {
		if c, ok := w.(io.Closer); ok {
			c.Close()
		}
	}
}

type input struct{ from io.Reader }

func (i *input) close() {
	if c, ok := i.from.(io.Closer); ok {
		c.Close()
	}
}
