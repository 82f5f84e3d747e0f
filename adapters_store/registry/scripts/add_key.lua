if lookup(API_KEYS) then
  return answer('name_taken')
end
announce_key('key_added', request.record)
return answer('ok')
