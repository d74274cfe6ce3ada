module github.com/emit-graph/emit/runtimes/go/build

go 1.22
