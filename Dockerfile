# A server on Linux CPUs: docker build -t mlx-hf-bridge . && docker run -p 8080:8080 mlx-hf-bridge MODEL [MODEL ...]
FROM python:3.12-slim

# OpenBLAS is a package of Python; a compiler is not needed.
COPY . /source
RUN pip install --no-cache-dir '/source[cpu,serve]' && rm -r /source

RUN useradd --create-home server
USER server
ENV HF_HOME=/home/server/cache/huggingface
VOLUME /home/server/cache
EXPOSE 8080
HEALTHCHECK --interval=10s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health')"]
# Docker sends SIGTERM, on which the server answers what it has accepted.
STOPSIGNAL SIGTERM
ENTRYPOINT ["mlx-hf-bridge", "serve", "--host", "0.0.0.0", "--port", "8080"]
CMD ["sentence-transformers/all-MiniLM-L6-v2"]
