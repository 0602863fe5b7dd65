// Gorilla's WebSockets on net/http: what is sent comes back. It is built without modules, against the
// package that Debian has (golang-github-gorilla-websocket-dev).
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/gorilla/websocket"
)

func main() {
	upgrader := websocket.Upgrader{}
	http.HandleFunc("/websocket", func(w http.ResponseWriter, r *http.Request) {
		socket, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer socket.Close()
		for {
			kind, data, err := socket.ReadMessage()
			if err != nil {
				return
			}
			if err := socket.WriteMessage(kind, data); err != nil {
				return
			}
		}
	})
	unix, err := net.Listen("unix", os.Args[1])
	check(err)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go http.Serve(unix, nil)
	fmt.Printf("port %d\n", tcp.Addr().(*net.TCPAddr).Port)
	check(http.Serve(tcp, nil))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
