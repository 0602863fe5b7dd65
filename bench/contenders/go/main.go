// The Go contender: net/http with its ServeMux, made the way the original of 2014 is. A listener waits
// on a channel before it accepts, and /version runs a job.
//
//	contender serve UNIX_PATH   serves on a tcp port too, and prints it
//	contender job               prints the nanoseconds and allocations of a job that writes a line
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
)

// bufferedListener accepts once its channel is closed.
type bufferedListener struct {
	net.Listener
	active <-chan struct{}
}

func (l *bufferedListener) Accept() (net.Conn, error) {
	<-l.active
	return l.Listener.Accept()
}

type thing struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Status string
		Pid    int
	}
	Ports []int
}

func main() {
	if os.Args[1] == "job" {
		benchmark()
		return
	}
	text := os.Getenv("VERSION_TEXT")
	eng := newEngine()
	eng.register("version", func(j *job) status {
		if _, err := io.WriteString(j.stdout, text); err != nil {
			return statusErr
		}
		return statusOK
	})
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Type", "text/plain; charset=utf-8")
		header.Set("Api-Version", "1.47")
		header.Set("Ostype", "linux")
		header.Set("Docker-Experimental", "false")
		header.Set("Cache-Control", "no-cache, no-store, must-revalidate")
		header.Set("Pragma", "no-cache")
		header.Set("Server", "Floodgate/0.1.0 (linux)")
		io.WriteString(w, "OK")
	})
	mux.HandleFunc("/version", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		j := eng.job("version")
		j.setenv("ApiVersion", "1.47")
		j.stdout.add(w)
		if err := j.run(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/things/", func(w http.ResponseWriter, r *http.Request) {
		t := thing{ID: strings.Split(r.URL.Path, "/")[2], Name: "web", Ports: []int{80, 443}}
		t.State.Status, t.State.Pid = "running", 4242
		body, err := json.Marshal(t)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(body)
	})
	chunk := make([]byte, 64*1024)
	mux.HandleFunc("/bytes/", func(w http.ResponseWriter, r *http.Request) {
		mebibytes, err := strconv.Atoi(strings.Split(r.URL.Path, "/")[2])
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for i := 0; i < mebibytes*16; i++ {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	active := make(chan struct{})
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	unix, err := net.Listen("unix", os.Args[2])
	check(err)
	for _, listener := range []net.Listener{tcp, unix} {
		go http.Serve(&bufferedListener{listener, active}, mux)
	}
	close(active)
	fmt.Printf("port %d\n", tcp.Addr().(*net.TCPAddr).Port)
	select {}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func benchmark() {
	eng := newEngine()
	eng.register("echo", func(j *job) status {
		io.WriteString(j.stdout, "hello\n")
		return statusOK
	})
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			if err := eng.job("echo", "one", "two").run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	fmt.Printf("{\"ns\": %d, \"allocs\": %d}\n", result.NsPerOp(), result.AllocsPerOp())
}
