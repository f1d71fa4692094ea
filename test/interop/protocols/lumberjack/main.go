// lumberjack is a client and a server of the Lumberjack protocol, version 2, by Elastic's own library:
//
//	lumberjack serve ADDRESS             events as JSON lines to standard output, acknowledged when written
//	lumberjack send ADDRESS LEVEL WINDOW BATCH   JSON lines from standard input; LEVEL of compression, batches in flight
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"

	client "github.com/elastic/go-lumber/client/v2"
	server "github.com/elastic/go-lumber/server/v2"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "lumberjack:", err)
		os.Exit(1)
	}
}

func serve(address string) {
	listening, err := server.ListenAndServe(address)
	fail(err)
	fmt.Fprintln(os.Stderr, "serving")
	out := bufio.NewWriter(os.Stdout)
	lines := json.NewEncoder(out)
	for batch := range listening.ReceiveChan() {
		for _, event := range batch.Events {
			fail(lines.Encode(event))
		}
		fail(out.Flush())
		batch.ACK()
	}
}

func send(address string, level, window, size int) {
	to, err := client.AsyncDial(address, window, client.CompressionLevel(level))
	fail(err)
	var all sync.WaitGroup
	acknowledged := func(seq uint32, err error) {
		fail(err)
		all.Done()
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	var batch []interface{}
	flush := func() {
		if len(batch) > 0 {
			all.Add(1)
			fail(to.Send(acknowledged, batch))
			batch = nil
		}
	}
	for lines.Scan() {
		var event interface{}
		fail(json.Unmarshal(lines.Bytes(), &event))
		if batch = append(batch, event); len(batch) == size {
			flush()
		}
	}
	fail(lines.Err())
	flush()
	all.Wait()
	fail(to.Close())
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	fail(err)
	return value
}

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "serve":
		serve(os.Args[2])
	case len(os.Args) == 6 && os.Args[1] == "send":
		send(os.Args[2], number(os.Args[3]), number(os.Args[4]), number(os.Args[5]))
	default:
		fmt.Fprintln(os.Stderr, "Usage: lumberjack serve ADDRESS | send ADDRESS LEVEL WINDOW BATCH")
		os.Exit(2)
	}
}
