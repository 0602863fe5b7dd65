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
	// What the daemon puts on every answer.
	always := func(w http.ResponseWriter, kind string) http.Header {
		header := w.Header()
		header.Set("Content-Type", kind)
		header.Set("Api-Version", "1.47")
		header.Set("Ostype", "linux")
		header.Set("Server", "Floodgate/0.1.0 (linux)")
		return header
	}
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, r *http.Request) {
		header := always(w, "text/plain; charset=utf-8")
		header.Set("Docker-Experimental", "false")
		header.Set("Cache-Control", "no-cache, no-store, must-revalidate")
		header.Set("Pragma", "no-cache")
		io.WriteString(w, "OK")
	})
	mux.HandleFunc("/version", func(w http.ResponseWriter, r *http.Request) {
		always(w, "application/json")
		j := eng.job("version")
		j.setenv("ApiVersion", "1.47")
		j.stdout.add(w)
		if err := j.run(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	answer := func(w http.ResponseWriter, r *http.Request) {
		t := thing{ID: strings.Split(r.URL.Path, "/")[2], Name: "web", Ports: []int{80, 443}}
		t.State.Status, t.State.Pid = "running", 4242
		body, err := json.Marshal(t)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(body)
	}
	mux.HandleFunc("/things/", func(w http.ResponseWriter, r *http.Request) {
		always(w, "application/json")
		answer(w, r)
	})
	mux.HandleFunc("/plain/", answer)
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		always(w, "application/json")
		fmt.Fprintf(w, `{"byteLength":%d}`, len(body))
	})
	mux.HandleFunc("/json", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Data string }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		always(w, "application/json")
		fmt.Fprintf(w, `{"length":%d}`, len(body.Data))
	})
	mux.HandleFunc("/raw", echo)
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

// echo takes the connection and sends back what comes, by way of the program as it would be if that did
// something with it: io.Copy would have the kernel move it.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"); err != nil {
		return
	}
	buffer := make([]byte, 64*1024)
	for {
		n, err := buffered.Read(buffer)
		if err != nil {
			return
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
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
